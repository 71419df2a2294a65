"""Memory and time of a run, estimated before it runs; reads no weights and starts nothing."""
