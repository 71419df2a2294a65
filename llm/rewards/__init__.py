"""Scores of answers; answers are never executed."""
