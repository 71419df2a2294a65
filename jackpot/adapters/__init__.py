"""Jackpot in other trainers: one module for each, loaded by it; no formula of the paper."""
