"""Preparation of a slave before the first lease: configuration, data, device."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from common.config.resizing import resized
from common.config.sections import Config
from common.data import datasets, holdings
from common.data.datasets import Dataset
from common.lifecycle import read_place
from common.wire.messages import Holdings, JoinReply
from slave.network.ahead import Ahead
from slave.network.options import Options
from slave.training.device import choose_device


@dataclass(frozen=True)
class Prepared:
    """Configuration, data and device of a slave, for leases on any layer; `holdings` go with each Join.

    Attributes:
        ahead: work for a lease while there is none.
    """

    config: Config
    dataset: Dataset
    holdings: Holdings
    device: torch.device
    options: Options
    ahead: Ahead

    @staticmethod
    def prepare(config: Config, options: Options) -> Prepared:
        """Load the data and choose the device.

        Raises:
            ConfigError: this machine lacks the data, the user's code or the device, or the data does not
                fit the run.
        """
        device = choose_device(options.device, read_place())
        dataset = datasets.of(config, path=options.data, code=options.code)
        dataset.check_fit(config)
        held = holdings.take_stock(config, dataset, options.code)
        ahead = Ahead(config, dataset, device, options.code)
        return Prepared(config, dataset, held, device, options, ahead)

    def on(self, lease: JoinReply) -> Prepared:
        """Return the preparation for a lease, with the number of replicas that the lease names.

        Raises:
            ConfigError: the configuration refuses that number.
        """
        if lease.replicas in ([], self.config.replicas):
            return self
        return dataclasses.replace(self, config=resized(self.config, lease.replicas))

    @property
    def gpu(self) -> str | None:
        """UUID of the GPU that trains; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return str(torch.cuda.get_device_properties(self.device).uuid)
