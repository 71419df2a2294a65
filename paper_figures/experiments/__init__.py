"""What is trained for the figures, and where the runs are kept; draws nothing."""
