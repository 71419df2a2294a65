"""The paper's empirical claims, their tests and verdicts."""
