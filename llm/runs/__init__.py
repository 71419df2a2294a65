"""A run's folder, files, signals, alarms and trackers; no tensors of the algorithm."""
