"""Everything drawn so far, on one page."""
