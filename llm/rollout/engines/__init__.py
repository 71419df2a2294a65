"""Where sampling runs: this process, a child process, vLLM; what to sample is decided above."""
