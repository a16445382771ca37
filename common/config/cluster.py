"""Section [cluster]: how the processes live together."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.profiles import AUTOCASTS, PROFILES, SYNTHESES, WIRES
from common.config.settings import broadcast, choice, key

# A slave may have connections to all of them.
MOST_STORES = 64


@dataclass(frozen=True)
class ClusterConfig:
    """Processes and the messages between processes."""

    profile: str = choice("light", PROFILES)
    synthesis: str = choice("slave", SYNTHESES, "where M and I run")
    wire: str = choice("float32", WIRES, "precision of activations and gradients between layers")
    autocast: str = choice("none", AUTOCASTS, "precision of computing in layers; parameters stay float32")
    compile: bool | list[bool] = key(
        False, "have slaves compile their layers (torch.compile), which takes a C++ compiler; or one a layer"
    )
    heartbeat_seconds: float = key(
        1.0, "seconds between two heartbeats of a slave", minimum=0.05, maximum=86_400
    )
    misses: int = key(
        2, "heartbeats that a slave may be silent for until it is failed", minimum=2, maximum=10_000
    )
    backup_steps: int = key(
        100,
        "steps between two backups to the master of a slave's optimizer state and carried states; 0: never",
        minimum=0,
    )
    snapshot_seconds: float = key(
        30.0, "seconds between two snapshots of the master", minimum=0.1, maximum=1e9
    )

    stores: int = key(
        0,
        "processes `layerwise store` that keep the shards; 0: the master keeps them",
        minimum=0,
        maximum=MOST_STORES,
    )

    @property
    def distributed(self) -> bool:
        """Whether a master and slaves take part."""
        return PROFILES[self.profile].distributed

    @property
    def direct(self) -> bool:
        """Whether neighbours exchange activations and gradients without the master, so that slaves listen."""
        return PROFILES[self.profile].direct

    @property
    def served(self) -> bool:
        """Whether M and I run in the master."""
        return SYNTHESES[self.synthesis].served

    def compiled_of(self, layers: int) -> list[bool]:
        """Return K flags: whether a layer is compiled.

        Raises:
            ConfigError: a list of another length than K.
        """
        return broadcast("cluster.compile", self.compile, layers, "values")
