"""What a run saves and resumes from; nothing here knows what a step does."""
