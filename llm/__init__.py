"""The trainer: Algorithm 1 and what it calls; the mathematics itself lives in jackpot/."""
