"""What a slave prepares once, before the first lease: configuration, data, device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.models import network
from common.models.network import Blueprint
from slave.network.options import Options
from slave.training.device import chosen_device


@dataclass(frozen=True)
class Prepared:
    """What a slave prepares once, whatever layer it will be given."""

    config: Config
    dataset: Dataset
    device: torch.device
    options: Options

    @staticmethod
    def prepare(config: Config, options: Options) -> Prepared:
        """Load the data and see that the network can be built here.

        Raises:
            ConfigError: this machine lacks the data, the user's code or the device.
        """
        device = chosen_device(options.device)
        dataset = datasets.load(config.data, path=options.data, code=options.code)
        return Prepared(config, dataset, device, options)

    @property
    def gpu(self) -> str | None:
        """The UUID of the GPU that is computed on."""
        if self.device.type != "cuda":
            return None
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def blueprint(self) -> Blueprint:
        """The network with its initial parameters."""
        return network.build(self.config, self.dataset.input_shape, self.dataset.classes, self.options.code)
