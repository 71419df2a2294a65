"""Scores of answers, which are never executed, and a user's own reward function; no torch."""
