"""The paper's empirical claims, their tests and verdicts; figures do not import them."""
