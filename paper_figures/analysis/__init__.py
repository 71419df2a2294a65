"""Statistics of runs: curves, intervals, differences; draws nothing."""
