"""Manifest of a run for Kubernetes: objects of its API as dictionaries."""
