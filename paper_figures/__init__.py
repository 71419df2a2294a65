"""The paper's pictures and tables from our own runs; trains only through the commands of llm."""
