"""RPCs of the master: a method reads a message, calls a single function, and writes the answer."""
