"""Jackpot in other trainers: one thin module for each, loaded by that trainer. Needs torch."""
