"""Plots, tables, colours and names for all figures; knows no particular figure."""
