"""Wishes of the user, and names and labels of the objects of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from deploy.engines.planning import Plan

Object = dict[str, Any]
MASTER, STORE, SLAVE, EVALUATOR = "master", "store", "slave", "evaluator"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_QUANTITY = re.compile(r"[1-9][0-9]*(\.[0-9]+)?([kMGTPE]i?|Ki)?")


@dataclass(frozen=True)
class Wishes:
    """What a run asks Kubernetes for.

    Attributes:
        name: of the objects; None: the run's.
        image: of every process.
        cpus: of each slave.
        gpus: of each slave.
        memory: of each process, as a quantity.
        storage: of each claim, as a quantity.
        data_claim: claim with the data set; None: the data set needs no files.
        tls: folder that `layerwise certificates` has made; None: cert-manager makes certificates.
        monitoring: namespace of Prometheus; None: nobody reads the pages.
    """

    name: str | None
    image: str
    cpus: int
    gpus: int
    memory: str
    storage: str
    data_claim: str | None
    tls: Path | None
    monitoring: str | None


@dataclass(frozen=True)
class Order:
    """A run and the wishes for it, checked.

    Raises:
        ConfigError: a wish is no name or quantity of Kubernetes, or the data set has no claim.
    """

    plan: Plan
    wishes: Wishes

    def __post_init__(self) -> None:
        wishes = self.wishes
        if not _NAME.fullmatch(self.name):
            option = "--name" if wishes.name is not None else "run.name"
            raise ConfigError(
                f"{option}: {self.name} cannot name objects of Kubernetes; give --name with at most 40 small "
                "letters, digits and hyphens, a letter first and no hyphen last"
            )
        for option, quantity in (("--memory", wishes.memory), ("--storage", wishes.storage)):
            if not _QUANTITY.fullmatch(quantity):
                raise ConfigError(f"{option} {quantity}: is no quantity of bytes; give for example 2Gi")
        path = self.plan.config.data.path
        if path is not None and wishes.data_claim is None:
            raise ConfigError(
                f"data.path: {path} is a place of this machine; copy it into a claim, and give "
                "--data-claim NAME"
            )

    @property
    def name(self) -> str:
        """Name of the run's objects, and the first part of their names."""
        return self.plan.config.run.name if self.wishes.name is None else self.wishes.name

    @property
    def master(self) -> str:
        """Name of the master's service, and so of its host."""
        return f"{self.name}-{MASTER}"

    @property
    def reader(self) -> str:
        """Name of the secret with the reader's token, which the user makes."""
        return f"{self.name}-reader"

    @property
    def stores(self) -> list[str]:
        """Component of the stores, if the run has any."""
        return [STORE] if self.plan.stores else []

    def labels(self, component: str | None = None) -> dict[str, str]:
        """Return labels of an object of the run, or of those of a component."""
        part = {"app.kubernetes.io/component": component} if component else {}
        return {"app.kubernetes.io/name": "layerwise", "app.kubernetes.io/instance": self.name, **part}

    def thing(self, api: str, kind: str, name: str, component: str | None = None, **content: Any) -> Object:
        """Build an object; `name` is added to the run's."""
        full = f"{self.name}-{name}" if name else self.name
        return {
            "apiVersion": api,
            "kind": kind,
            "metadata": {"name": full, "labels": self.labels(component)},
            **content,
        }

    def select(self, *components: str) -> Object:
        """Build a selector of the run's pods, or of those of components."""
        chosen: Mapping[str, str] = self.labels(components[0]) if len(components) == 1 else self.labels()
        selector: Object = {"matchLabels": dict(chosen)}
        if len(components) > 1:
            selector["matchExpressions"] = [_one_of("app.kubernetes.io/component", components)]
        return selector


def _one_of(label: str, values: Sequence[str]) -> Object:
    return {"key": label, "operator": "In", "values": list(values)}
