"""The lab: finite worlds in which OBRS can be computed exactly; imports neither llm nor torch."""
