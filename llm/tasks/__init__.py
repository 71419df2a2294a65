"""Problems and their right answers, generated or read from files; no models, no torch."""
