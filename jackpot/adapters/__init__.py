"""Jackpot in other trainers: one module for each, which that trainer loads; no formula of the paper."""
