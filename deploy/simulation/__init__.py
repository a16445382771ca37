"""The slaves' and the master's own classes in one process, under a virtual clock."""
