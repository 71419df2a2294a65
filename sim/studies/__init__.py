"""Numeric studies of the worlds, with their tables and pictures; no verdicts on claims."""
