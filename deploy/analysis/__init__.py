"""Analysis of the networks and synthesizers of runs, as plots and numbers."""
