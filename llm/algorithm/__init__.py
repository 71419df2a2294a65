"""The paper as pure functions of flat tensors; nothing here opens a model or a file."""
