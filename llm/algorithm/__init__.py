"""The paper as pure functions of flat tensors, with plain keywords.

Nothing here opens a model or a file, and nothing takes a configuration object.
"""
