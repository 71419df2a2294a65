"""What a run saves and resumes from, whole or not at all; knows nothing of what a step does."""
