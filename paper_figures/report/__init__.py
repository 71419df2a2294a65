"""Everything drawn so far, on one page; nothing is trained or computed here."""
