"""Studies beyond the paper."""
