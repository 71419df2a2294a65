"""Pages and pictures from the files of a run; reads no checkpoint and imports no torch."""
