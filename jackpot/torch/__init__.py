"""The paper and related objectives as pure functions of torch tensors, for any trainer."""
