"""Agent logs, memory and history as training data: decoders, one canonical session, views."""
