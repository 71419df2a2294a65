"""The paper and related objectives: pure functions of flat tensors, without configuration or file."""
