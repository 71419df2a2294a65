"""A run's folder, files, metric names, alarms, signals and trackers; no models and no losses."""
