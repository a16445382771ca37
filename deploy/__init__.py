"""Placement of processes: command line, local cluster, evaluator and result files."""
