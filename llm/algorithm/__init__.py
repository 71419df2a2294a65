"""The paper, and related objectives, as pure functions of flat tensors; no configuration object, no model, no file."""
