"""The tables of the paper, one file each; which runs they need is in experiments."""
