"""Scores of answers, which are read and never executed, and rewards by a function of the user's."""
