"""Trains a neural network layer by layer, asynchronously, over a cluster: the interface for Python.

>>> import layerwise
>>> layerwise.Config().run.batches
800
"""

from common.config.sections import Config
from common.errors import ConfigError, LayerwiseError, RefusedError, RunFailedError, UnreachableError
from deploy.interface.calls import compare, load, simulate, train
from deploy.interface.results import Compared, Result

__all__ = [
    "Compared",
    "Config",
    "ConfigError",
    "LayerwiseError",
    "RefusedError",
    "Result",
    "RunFailedError",
    "UnreachableError",
    "compare",
    "load",
    "simulate",
    "train",
]
