"""Statements of the paper and of docs/theory*.md, each with a check and a verdict."""
