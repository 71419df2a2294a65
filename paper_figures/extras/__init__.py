"""Figures and tables beyond the paper; the paper's own import none of them."""
