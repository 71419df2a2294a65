"""One file for each python -m llm command; nothing else imports them."""
