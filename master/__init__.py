"""The master: the parameter service, the roster and the relay."""
