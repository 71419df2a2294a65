"""Scores of answers; an answer is read, never executed, and torch is not imported."""
