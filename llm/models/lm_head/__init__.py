"""Log-probabilities and KLs from the vocabulary head, in blocks or whole; no sampling, no loss."""
