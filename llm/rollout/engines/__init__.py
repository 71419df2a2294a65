"""Where sampling runs: this process, a child process, vLLM."""
