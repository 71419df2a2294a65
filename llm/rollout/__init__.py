"""Phase 1: sampling from the actor; weights and losses do not live here."""
