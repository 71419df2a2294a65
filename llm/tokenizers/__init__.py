"""Text to token ids and back; knows no task and no model, and imports no torch."""
