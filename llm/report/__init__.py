"""Pages and pictures from a run's files; imports no torch."""
