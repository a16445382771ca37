"""common.config.downpour: every key has a meaning, or its default."""

from __future__ import annotations

import pytest

from common.config.downpour import DownpourConfig
from common.config.files import load
from common.config.optimizers import SERVER_OPTIMIZERS
from common.errors import ConfigError

GRADIENT = 'downpour.push="gradient"'


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["server_optimizer=adam"],
            'server_optimizer: "adam" takes no pushes of downpour.push = "update"; choose nesterov, or',
        ),
        (
            ["push=gradient", "server_optimizer=nesterov"],
            'server_optimizer: "nesterov" takes no pushes of downpour.push = "gradient"; choose sgd or adam',
        ),
        (["server_momentum=0.5"], 'server_momentum: unknown key for downpour.push = "update"; leave it out'),
        (
            ["server_optimizer=nesterov", "server_weight_decay=0.1"],
            'server_weight_decay: unknown key for downpour.push = "update"; leave it out, or',
        ),
        (
            ["server_optimizer=nesterov", "server_nesterov=true"],
            "server_nesterov: unknown key for downpour.push",
        ),
        (["server_learning_rate=0.1"], 'server_learning_rate: unknown key for downpour.push = "update"'),
        (["server_weight_decay=0.1"], 'server_weight_decay: unknown key for downpour.push = "update"'),
        (
            ["push=gradient", "server_momentum=0.9"],
            'server_momentum: unknown key for downpour.server_optimizer = "adagrad"; leave',
        ),
        (
            ["push=gradient", "server_nesterov=true"],
            'server_nesterov: unknown key for downpour.server_optimizer = "adagrad"; leave',
        ),
        (["push=gradient", "server_optimizer=sgd", "server_nesterov=true"], "server_nesterov: needs"),
        (
            ["push=gradient", "server_optimizer=sgd", "server_momentum=1.5"],
            "server_momentum: 1.5 is too large",
        ),
        (["push=gradient", "server_learning_rate=0"], "server_learning_rate: 0.0 is too small"),
        (["staleness=compensate"], 'staleness: "compensate" corrects gradients; give downpour.push'),
        (["bound=3"], 'bound: unknown key for downpour.staleness = "any"; leave it out, or choose'),
        (["compensation=1"], 'compensation: unknown key for downpour.staleness = "any"; leave it out'),
        (["staleness=bound", "bound=-1"], "bound: -1 is too small"),
        (["warm_start=10"], "warm_start: 10 has no meaning with one replica"),
        (["warm_start=10", "replicas=[1, 1, 1]"], "warm_start: 10 has no meaning with one replica"),
        (["warm_start=800", "replicas=2"], "warm_start: 800 of 800 batches leaves none"),
        (["replicas=0"], "replicas: 0 is too small"),
        (["replicas=[1, 0, 1]"], "replicas: 0 is too small"),
        (["replicas=100000"], "replicas: 100000 is too large"),
        (["replicas=true"], "replicas: expected a whole number or a list of whole numbers"),
        (["n_fetch=0"], "n_fetch: 0 is too small"),
        (["n_push=often"], 'n_push: "often" is no number of steps; give one, or "auto"'),
        (["n_push=0"], "n_push: 0 is too small"),
        (["n_push=1.5"], "n_push: expected a whole number or a string"),
        (
            ["push=gradient", "staleness=compensate", "n_push=auto"],
            'staleness: "compensate" needs to know the steps of a push; give downpour.n_push a number',
        ),
        (["push=gradient", "fragments=2"], 'fragments: downpour.push = "gradient" sums over whole layers'),
        (["staleness=scale", "fragments=2"], 'fragments: downpour.staleness = "scale" counts pushes of'),
        (["fragments=0"], "fragments: 0 is too small"),
        (
            ["fragments=4", "n_push=3"],
            "fragments: 4 fragments cannot take turns within 3 steps; give at most 3",
        ),
        (["fragments=11", "n_push=auto"], "fragments: 11 fragments cannot take turns within 10 steps"),
        (
            ["fragments=4", "n_fetch=3", "replicas=2"],
            "fragments: 4 fragments cannot take turns within 3 steps; give at most 3, or a larger downpour"
            ".n_fetch",
        ),
        (["blend=1", "replicas=2"], "blend: 1 takes nothing of a fetched version; give less than 1"),
        (["blend=0.5"], "blend: 0.5 has no meaning where one replica adds its updates"),
        (["blend=1.5"], "blend: 1.5 is too large"),
        (["push=both"], 'push: "both" is not one of update, gradient'),
    ],
)
def test_what_has_no_meaning_is_refused_by_its_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, [f"downpour.{each}" for each in overrides])
    assert str(caught.value).startswith(f"--set: downpour.{said}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["push=gradient", "staleness=compensate", "compensation=2.0", "replicas=2", "warm_start=100"],
        ["push=gradient", "server_optimizer=sgd", "server_momentum=0.9", "server_nesterov=true"],
        ["push=gradient", "server_optimizer=adamw", "server_weight_decay=0.01", "server_learning_rate=1"],
        ["n_push=auto", "replicas=2"],
        ["fragments=4", "blend=0.5", "replicas=2", "server_optimizer=nesterov", "precision=int8"],
        ["staleness=bound", "bound=0", "replicas=[1, 2, 3]", "n_fetch=1"],
        ["staleness=scale", "bound=16"],
        ["push=gradient", "server_optimizer=adagrad", "server_learning_rate=0.1"],
        ["push=gradient", "server_weight_decay=0.1"],
        ["server_optimizer=nesterov", "server_learning_rate=1", "server_momentum=0.0", "replicas=2"],
    ],
)
def test_what_has_a_meaning_or_is_the_default_is_taken(overrides: list[str]) -> None:
    load(None, [f"downpour.{each}" for each in overrides])


def test_replicas_are_one_number_or_one_a_layer() -> None:
    cut = ["network.cuts=[1, 2]"]
    assert load(None, cut).replicas == [1, 1, 1]
    assert load(None, [*cut, "downpour.replicas=2"]).replicas == [2, 2, 2]
    assert load(None, [*cut, "downpour.replicas=[3, 1, 2]"]).replicas == [3, 1, 2]


@pytest.mark.parametrize("known", ["network.cuts=[1, 2]", "network.layers=3"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_list_of_replicas_of_another_length_is_refused_as_soon_as_the_layers_are_known(
    known: str, count: int
) -> None:
    replicas = f"downpour.replicas={[1] * count}"
    with pytest.raises(ConfigError, match=f"downpour.replicas: {count} numbers for 3 layers"):
        load(None, [known, replicas])
    unresolved = load(None, [replicas])
    with pytest.raises(ConfigError, match=f"downpour.replicas: {count} numbers for 3 layers"):
        unresolved.with_cuts([1, 2])


def test_a_servers_rate_that_is_unset_is_its_optimizers() -> None:
    for name, row in SERVER_OPTIMIZERS.items():
        push = "update" if row.outer else "gradient"
        assert DownpourConfig(push, server_optimizer=name).server_rate == row.rate > 0
        assert DownpourConfig(push, server_optimizer=name).momentum == row.momentum
    assert DownpourConfig("gradient", server_learning_rate=0.7).server_rate == 0.7


def test_a_masters_optimizer_that_is_unset_is_adagrad_for_gradients_and_none_for_updates() -> None:
    assert DownpourConfig().server is None
    assert not DownpourConfig().outer
    gradients = DownpourConfig("gradient").server
    assert gradients is not None
    assert gradients.name == "adagrad"
    assert DownpourConfig(server_optimizer="nesterov").outer
