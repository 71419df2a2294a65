"""Prompts and their right answers."""
