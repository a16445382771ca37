"""Simulation: the slaves' and the master's classes in one process, under a virtual clock."""
