"""Evaluation and export of a run's network."""
