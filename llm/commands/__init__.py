"""One file for each `python -m llm` command, its parts beside it; no other folder imports them."""
