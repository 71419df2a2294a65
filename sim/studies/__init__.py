"""Numeric studies: tables and pictures from worlds."""
