"""RPCs of the master: each method reads a message, calls one function, and writes the answer."""
