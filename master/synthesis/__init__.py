"""Served synthesis: M and I in the master."""
