"""Plots, tables, colours and names, for all figures."""
