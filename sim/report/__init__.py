"""One page of everything that sim computes."""
