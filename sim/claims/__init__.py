"""Statements of the paper and docs/theory*.md, each with a check and a verdict; no pictures."""
