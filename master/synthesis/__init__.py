"""Served synthesis: M and I that run in the master."""
