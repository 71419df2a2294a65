"""What train.py calls, one file a subject."""
