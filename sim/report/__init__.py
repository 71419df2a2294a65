"""One page of everything that sim computes; no study or claim is defined here."""
