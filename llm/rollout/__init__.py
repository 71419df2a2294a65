"""Phase 1: sampling from the actor, and the batch it yields; no weights of tokens and no losses."""
