"""Run directories: files of a run under stable names, plots, events for TensorBoard."""
