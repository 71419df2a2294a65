"""The paper and related objectives: pure functions of flat tensors; no configuration, no file."""
