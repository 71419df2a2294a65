"""Memory and time of a run before it runs; reads no weights."""
