"""Where processes are put: the command line, the local cluster, the evaluator and its files."""
