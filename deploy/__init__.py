"""Placement of processes: command line, local cluster, evaluator and result files."""

import os
import sys

# Module of the command line, which starts the other processes.
COMMAND = f"{__name__}.cli"

# `python -m deploy.cli` searches the working directory first, where a user's `common.py` would hide a package
# of this project, and a `random.py` the library's. The installed command does not search it either.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and sys.path[0] != os.path.dirname(__path__[0]):
    del sys.path[0]
