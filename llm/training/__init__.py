"""The parts of a training step that train.py calls in order; no command, no flag, no page."""
