"""The paper as pure functions of flat tensors; no configuration object, no model, no file."""
