"""The engine of `train`: options that mean nothing are refused, and a resumption names the same place."""

from __future__ import annotations

import pytest

from common.config.cluster import ClusterConfig
from common.config.sections import Config
from common.errors import ConfigError
from deploy.engines.placement import HERE, Placement, parse_size


def test_room_is_asked_of_a_cluster_alone() -> None:
    with pytest.raises(ConfigError, match=r"^train --cpus: has no meaning with --on local; add --on ray"):
        Placement(cpus=2)
    with pytest.raises(ConfigError, match=r"^train --address: has no meaning"):
        Placement(address="auto")


def test_the_command_that_resumes_a_run_names_its_place() -> None:
    assert HERE.options() == []
    placement = Placement("ray", "10.0.0.1:6379", 2, 0, "2Gi")
    assert placement.options() == [
        "--on=ray", "--address=10.0.0.1:6379", "--cpus=2", "--gpus=0", "--memory=2Gi",
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "size"), [("2Gi", 2 << 30), ("3M", 3_000_000), ("17", 17), (None, 0)])
def test_a_size_has_a_unit_or_none(text: str | None, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2 Gi", "-1", "1.5Gi", "Gi", "2i", "2gb"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--memory .*: is no number of bytes; give for example 2Gi"):
        Placement("ray", memory=text)


def test_a_run_without_processes_has_no_place_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    config = Config(cluster=ClusterConfig(profile="synchronous"))
    HERE.check(config)
    with pytest.raises(ConfigError, match="has no processes to place; omit --on"):
        Placement("ray").check(config)


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package ray is not installed; pip install 'layerwise\[ray\]'"):
        Placement("ray").check(Config())
