"""Run directories: files of a run under stable names, plots, trackers of experiments."""
