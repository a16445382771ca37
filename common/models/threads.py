"""Threads with which torch computes."""

from __future__ import annotations

import os

import torch

from common.cores import count_cores


def use_allowed_cores() -> None:
    """Give torch a thread for each core open to the process.

    Torch counts the cores of the affinity, but not a container's quota. The user's OMP_NUM_THREADS wins.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(count_cores())
