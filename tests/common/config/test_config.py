"""common.config.sections: TOML in and out, `--set`, and refusals that say where."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from common.config.data import DATASETS
from common.config.files import describe, load, parse
from common.config.models import ACTIVATIONS
from common.config.optimizers import DECAYS, OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from common.config.sections import Config
from common.config.settings import keys
from common.errors import ConfigError

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_. -]{0,10}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
FLOATS = st.floats(1e-12, 1e3)
SCALARS = st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | FLOATS | TEXT
# What a user's own function may be given: keys that need quotes, nested tables, lists of tables.
FREE = st.dictionaries(
    TEXT,
    st.recursive(
        SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=6
    ),
    max_size=3,
)


def table(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping in which each key may be left out."""
    return st.fixed_dictionaries({}, optional=keys)


OPTIMIZER = {
    "name": st.sampled_from(list(OPTIMIZERS)),
    "learning_rate": FLOATS,
    "weight_decay": FLOATS,
    "schedule": st.sampled_from(list(SCHEDULES)),
    "warm_up": st.integers(0, 99),
    "clip_norm": FLOATS,
    "accumulate": st.integers(1, 9),
    "decayed": st.sampled_from(list(DECAYS)),
}
SGD = st.fixed_dictionaries(
    {"name": st.just("sgd"), "momentum": st.floats(0.1, 1)}, optional={"nesterov": st.booleans()}
)
MLP = st.fixed_dictionaries(
    {"options": st.fixed_dictionaries({"widths": st.lists(st.integers(1, 9), min_size=3, max_size=5)})},
    optional={"cuts": st.sets(st.integers(1, 3)).map(sorted), "model": st.just("mlp")},
)
NETWORKS = (
    MLP
    | table(layers=st.integers(1, 3), options=table(activation=st.sampled_from(list(ACTIVATIONS))))
    | st.fixed_dictionaries({"model": st.just("/own/net.py:build")}, optional={"options": FREE})
)
DECOUPLINGS = table(
    unlock=st.just("update"), gradient=st.just("vfbn"), in_flight=st.integers(1, 99),
    gradient_options=table(hidden=st.integers(0, 9), trained=st.booleans()), mix_true=st.booleans(),
    step_probability=st.floats(0.1, 1), synthesizer_every=st.integers(1, 9),
    synthesizer_steps=st.integers(1, 9),
    fallback_cosine=st.floats(-1, 0.9),
) | st.fixed_dictionaries(
    {"unlock": st.just("delayed")}, optional={"shrink": st.floats(0, 1), "in_flight": st.integers(1, 9)}
) | st.fixed_dictionaries(
    {"unlock": st.just("full")}, optional={"input": st.sampled_from(["mlp", "frozen"])}
) | st.just({"unlock": "none"}) | st.just({"unlock": "local"})  # fmt: skip
DOWNPOURS = table(
    n_push=st.integers(1, 10**6), n_fetch=st.integers(1, 10**6), replicas=st.integers(1, 9),
    staleness=st.sampled_from(["any", "scale"]),
) | st.fixed_dictionaries(
    {"push": st.just("gradient"), "staleness": st.just("compensate")},
    optional={
        "server_optimizer": st.sampled_from(list(SERVER_OPTIMIZERS.select(lambda row: not row.outer))),
        "server_learning_rate": FLOATS, "compensation": FLOATS,
    },
) | st.fixed_dictionaries(
    {"server_optimizer": st.just("nesterov")}, optional={"server_momentum": st.floats(0, 1)}
)  # fmt: skip
FILED = list(DATASETS.select(lambda row: not row.curriculum))
VALUES = table(
    run=table(name=NAMES, seed=st.integers(0, 2**63 - 1), batches=st.integers(1, 10**9)),
    data=table(dataset=st.sampled_from(FILED) | st.just("/own/data.py:load"), path=st.just("/data")),
    network=NETWORKS,
    decoupling=DECOUPLINGS,
    optimizer=table(**OPTIMIZER, synthesizer=table(**OPTIMIZER) | SGD) | SGD,
    downpour=DOWNPOURS,
    cluster=table(
        heartbeat_seconds=st.floats(0.05, 1e3),
        misses=st.integers(2, 9),
        wire=st.sampled_from(["bfloat16", "int8"]),
        compile=st.booleans(),
    ),
)


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def valid(values: dict[str, Any]) -> Config:
    """The configuration of these values."""
    return parse(tomli_w.dumps(values), "made.toml")


@given(VALUES)
def test_a_configuration_written_as_toml_reads_back_equal(values: dict[str, Any]) -> None:
    config = valid(values)
    assert parse(config.to_toml(), "again.toml") == config


@given(VALUES)
def test_what_is_described_for_editing_reads_back_equal(values: dict[str, Any]) -> None:
    config = valid(values)
    assert parse(describe(config), "edited.toml") == config


@pytest.mark.parametrize("other", ["cluster.profile=synchronous", "cluster.synthesis=master"])
def test_a_narrow_wire_is_refused_where_little_or_nothing_goes_over_it(other: str) -> None:
    name, _, value = other.partition("=")
    said = refusal(None, other, "cluster.wire=int8")
    assert said.startswith(f'--set: cluster.wire: unknown key for {name} = "{value}"; leave it out')
    assert load(None, [other, "cluster.wire=float32"]).cluster.wire == "float32"


def test_what_is_compiled_is_said_of_all_layers_or_of_each() -> None:
    config = load(None, ["network.layers=3", "cluster.compile=[true,false,true]"])
    assert config.cluster.compiled_of(3) == [True, False, True]
    assert load(None, ["cluster.compile=true"]).cluster.compiled_of(2) == [True, True]
    said = refusal(None, "network.layers=3", "cluster.compile=[true,false]")
    assert "cluster.compile: 2 values for 3 layers" in said
    assert "a list of true and false" in refusal(None, "cluster.compile=1")
    said = refusal(None, "cluster.profile=synchronous", "cluster.compile=true")
    assert 'cluster.compile: unknown key for cluster.profile = "synchronous"; leave it out' in said


def test_an_unknown_wire_is_refused() -> None:
    said = refusal(None, "cluster.wire=float64")
    assert "cluster.wire" in said
    assert "int8" in said


def test_a_configuration_in_a_file_reads_back_equal(tmp_path: Path) -> None:
    config = load(None, ['run.name="Ä # [x]"', "network.cuts=[1]", "optimizer.learning_rate=1e-05"])
    assert load(written(tmp_path, config.to_toml())) == config


def test_every_key_is_described_with_its_default_and_a_line_of_help() -> None:
    lines = describe(Config()).splitlines()
    section, printed = "", set()
    assert max(map(len, lines)) <= 110
    for line in filter(None, lines):
        if line.startswith("["):
            section = line.strip("[]")
            continue
        if line.lstrip().startswith("# ") and line.startswith(" "):
            continue  # a comment that goes on
        name = line.removeprefix("# ").partition(" =")[0]
        assert line.rpartition("# ")[2].strip(), f"{section}.{name} has no help"
        printed.add(f"{section}.{name}")
    assert printed == set(keys(Config))


def test_the_comment_behind_a_long_value_keeps_its_words_whole() -> None:
    config = load(None, [f"downpour.replicas={[1] * 60}"])
    line, below, *_ = describe(config).partition("replicas = [1, ")[2].splitlines()
    assert line.endswith("1] # slaves")
    assert below.strip() == "# that train the same layer (R); or one number a layer"


def test_every_key_of_every_options_table_has_help() -> None:
    from common.config.models import MODELS
    from common.config.synthesizers import GRADIENTS, INPUTS

    tables = [[row.options for row in rows.values()] for rows in (MODELS, GRADIENTS, INPUTS)]
    for options in itertools.chain(*tables):
        for name, field in keys(options).items():
            assert field.metadata["rule"].help, name


# --- where and what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[run]\nbatchs = 3", 'run.batchs: unknown key; did you mean "run.batches"?'),
        ("[run]\nlearning_rate = 3", 'run.learning_rate: unknown key; did you mean "optimizer.'),
        ("[runs]\nbatches = 3", 'runs: unknown section; did you mean "run"?'),
        ("batches = 3", "batches: unknown section; known are run, data, network, "),
        ("run = 3", "run: is a section, not a value; write run.KEY = VALUE"),
        ("[run]\nbatches = 'many'", "run.batches: expected a whole number, got 'many'"),
        ("[run]\nbatch_size = 1", "run.batch_size: 1 is too small; at least 2 is needed"),
        ("[run]\nname = 'a/b'", "run.name: 'a/b' cannot name a folder"),
        ("[run]\nname = ''", "run.name: '' cannot name a folder"),
        ('[run]\nname = "a\\nb"', "run.name: 'a\\nb' cannot name a folder"),
        ("[network.options]\nwidhts = [3]", 'network.options.widhts: unknown key; did you mean "net'),
        ("[network.options]\nwidths = [0]", "network.options.widths: 0 is too small"),
        ("[network.options]\nwidths = [1000000000]", "network.options.widths: 1000000000 is too large"),
        ("[network]\nmodel = 'resnet'\noptions.depth = 60000000002", "network.options.depth: 60000000002 is"),
        ("[cluster]\nheartbeat_seconds = 1e300", "cluster.heartbeat_seconds: 1e+300 is too large"),
        ("[cluster]\nmisses = 1000000000000", "cluster.misses: 1000000000000 is too large"),
        ("[cluster]\nsnapshot_seconds = 1e300", "cluster.snapshot_seconds: 1e+300 is too large"),
        ("[run]\nbatches = 9223372036854775807", "run.batches: 9223372036854775807 is too large"),
        ("[network]\nmodel = 'cnn'\noptions = {channels = []}", "network.options.channels: at least one"),
        ("[network]\nlayers = 9", "network.layers: 9 layers cannot be cut from the 3 units"),
        ("[network]\ncuts = [3]", "network.cuts: [3] goes past the 3 units"),
        ("[network]\ncuts = [2, 1]", "network.cuts: [2, 1] must ascend"),
        ("[network]\ncuts = [1]\nlayers = 3", "network.layers: 3 contradicts network.cuts = [1]"),
        ("[decoupling]\ngradient_options = {hiden = 3}", "decoupling.gradient_options.hiden: unknown key"),
        ("[decoupling]\nfallback_cosine = 1.0", "decoupling.fallback_cosine: 1.0 is too large"),
        ("[optimizer]\nname = 'sgd'\nnesterov = true", "optimizer.nesterov: needs optimizer.momentum above"),
        ("[optimizer]\nlearning_rate = 1e30", "optimizer.learning_rate: 1e+30 is too large"),
        ("[optimizer.synthesizer]\nlearning_rate = 1e9", "optimizer.synthesizer.learning_rate: "),
        ("[optimizer]\nclip_norm = 0", "optimizer.clip_norm: 0.0 is too small"),
        ("[optimizer]\naccumulate = 0", "optimizer.accumulate: 0 is too small"),
        ("[optimizer.layers]\nfirst = {}", "optimizer.layers.first: expected a layer's number"),
        ("[optimizer.layers]\n0 = {}", "optimizer.layers.0: expected a layer's number"),
        ("[optimizer.layers]\n1 = 0.1", "optimizer.layers.1: expected a table"),
        ("[optimizer.layers.1]\nlearning_rat = 0.1", "optimizer.layers.1.learning_rat: unknown key"),
        ("[optimizer.layers.1]\nmomentum = 0.9", "optimizer.layers.1.momentum: unknown key for optimi"),
        ("[optimizer.layers.1]\nname = 'sgd'\nnesterov = true", "optimizer.layers.nesterov: needs"),
        ("[optimizer.layers.1]\nname = 'prodigy'", 'optimizer.layers.1.name: "prodigy" is not one of'),
        ("[network]\nlayers = 2\n[optimizer.layers.3]\nname = 'sgd'", "optimizer.layers.3: the network"),
        ("[optimizer]\nlearning_rate = inf", "optimizer.learning_rate: expected a finite number, got inf"),
        ("[cluster]\nprofile = 'deep'", 'cluster.profile: "deep" is not one of light, basic'),
        ("run]", "is not TOML: "),
        ("[run]\nseed = " + "9" * 5000, "is not TOML: "),
        ("[run]\nseed = " + "[" * 5000, "is not TOML: "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_its_name_and_the_key(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    assert refusal(path).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("overrides", "key", "choice", "others"),
    [
        (["unlock=none", "in_flight=3"], "decoupling.in_flight", "unlock = none", ["update", "full"]),
        (["unlock=delayed", "gradient=cdni"], "decoupling.gradient", "unlock = delayed", ["update", "full"]),
        (["unlock=local", "gradient=dni"], "decoupling.gradient", "unlock = local", ["update", "full"]),
        (["shrink=0.5"], "decoupling.shrink", "unlock = update", ["delayed"]),
        (["unlock=full", "mix_true=true"], "decoupling.mix_true", "unlock = full", ["update"]),
        (["gradient=sg+prop", "mix_true=true"], "decoupling.mix_true", "gradient = sg+prop", ["cdni"]),
        (
            ["gradient=sg+prop", "step_probability=0.5"],
            "decoupling.step_probability",
            "gradient = sg+prop",
            ["dni"],
        ),
        (["input_options={hidden = [3]}"], "decoupling.input_options", "unlock = update", ["full"]),
        (["optimizer.nesterov=true"], "optimizer.nesterov", "name = adam", ["sgd"]),
        (["optimizer.momentum=0.5"], "optimizer.momentum", "name = adam", ["sgd"]),
        (["optimizer.synthesizer.nesterov=true"], "optimizer.synthesizer.nesterov", "name = adam", ["sgd"]),
    ],
)
def test_a_key_that_the_chosen_row_does_not_heed_is_unknown(
    overrides: list[str], key: str, choice: str, others: list[str]
) -> None:
    chooser, _, value = choice.partition(" = ")
    chooser = f"{key.rpartition('.')[0]}.{chooser}"
    said = refusal(None, *(each if "optimizer." in each else f"decoupling.{each}" for each in overrides))
    assert said.startswith(f'--set: {key}: unknown key for {chooser} = "{value}"; leave it out, or choose ')
    assert all(f'"{other}"' in said for other in others)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["decoupling.unlock=full", "decoupling.gradient=sg+prop"],
            'decoupling.gradient: "sg+prop" waits for the true gradient, and with decoupling.unlock = "full"',
        ),
        (
            [
                "decoupling.gradient=sg+prop", "data.dataset=copy", "network.model=lstm", "time.window=3",
                "time.gradient=dni",
            ],
            'time.gradient: "dni" adds to the gradient that decoupling.gradient = "sg+prop" has sent down',
        ),
        (
            ["decoupling.unlock=alignment", "decoupling.alignment=kickback"],
            'decoupling.alignment: "kickback" adds the gradient up over the outputs, which gives 0 with '
            'task.kind = "classification", a softmax; choose decoupling.alignment = "feedback" or "direct"',
        ),
        (
            ["decoupling.alignment=direct"],
            'decoupling.alignment: unknown key for decoupling.unlock = "update"',
        ),
    ],
)  # fmt: skip
def test_a_gradient_that_cannot_come_or_tells_nothing_is_refused(overrides: list[str], said: str) -> None:
    assert said in refusal(None, *overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.batches=many", "--set: run.batches: expected a whole number, got 'many'"),
        ("run.batchs=3", '--set: run.batchs: unknown key; did you mean "run.batches"?'),
        ("network.options.widhts=[3]", "--set: network.options.widhts: unknown key"),
        ("optimizer.synthesizer.nesterov=true", "--set: optimizer.synthesizer.nesterov: unknown key"),
        ("run.name.first=3", "--set: run.name: expected a string"),
        ("run", "--set run: expected section.key=value"),
        ("run=3", "--set run=3: expected section.key=value"),
        (".run=3", "--set .run=3: expected section.key=value"),
        ("run.=3", "--set run.=3: expected section.key=value"),
        ("=3", "--set =3: expected section.key=value"),
    ],
)
def test_a_wrong_set_is_refused_as_such(tmp_path: Path, override: str, said: str) -> None:
    path = written(tmp_path, "[run]\nseed = 1")
    assert refusal(path, override).startswith(said)


def test_an_error_of_the_file_is_not_blamed_on_a_set_of_another_key(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nbatches = 0")
    assert refusal(path, "run.seed=1").startswith(f"{path}: run.batches: 0 is too small")


def test_a_file_without_an_end_is_refused() -> None:
    assert refusal(Path("/dev/zero")).startswith("/dev/zero: has over 1,048,576 characters; give the path of")


def test_a_set_within_what_is_a_value_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nname = 'x'")
    assert refusal(path, "run.name.first=3") == "--set run.name.first: name is a value, not a section"


def test_a_path_that_cannot_be_read_is_refused_by_its_name(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{tmp_path}: cannot be read: Is a directory")
    assert refusal(tmp_path / "no.toml").startswith(f"{tmp_path / 'no.toml'}: cannot be read: No such file")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert refusal(binary).startswith(f"{binary}: cannot be read: ")


# --- --set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("run.seed=7", "run", "seed", 7),
        ("run.seed = 7", "run", "seed", 7),
        ("run.name=digits", "run", "name", "digits"),
        ("run.name= two words ", "run", "name", "two words"),
        ('run.name="7"', "run", "name", "7"),
        ("run.name=a#b", "run", "name", "a#b"),
        ("run.name=a=b", "run", "name", "a=b"),
        ("network.cuts=[1, 2]", "network", "cuts", [1, 2]),
        ("network.options={widths = [4]}", "network", "options", {"widths": [4]}),
        ("network.options.widths=[4]", "network", "options", {"widths": [4]}),
        ("optimizer.nesterov=false", "optimizer", "nesterov", False),
        ("data.dataset=mnist", "data", "dataset", "mnist"),
    ],
)
def test_a_set_takes_a_toml_value_or_a_bare_word(
    override: str, section: str, name: str, value: object
) -> None:
    assert getattr(getattr(load(None, [override]), section), name) == value


def test_a_set_of_several_toml_lines_is_one_word_and_smuggles_nothing_in() -> None:
    assert refusal(None, "run.seed=1\n[run]\nbatches=2").startswith(
        "--set: run.seed: expected a whole number"
    )


def test_the_last_of_two_sets_wins_and_both_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nseed = 1\nbatches = 5")
    run = load(path, ["run.seed=2", "run.seed=3"]).run
    assert (run.seed, run.batches) == (3, 5)


def test_a_dotted_set_changes_one_key_of_a_table_and_leaves_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, "[network.options]\nwidths = [4, 5]\nbatch_norm = false")
    options = load(path, ["network.options.widths=[6]", "optimizer.synthesizer.learning_rate=1"])
    assert options.network.options == {"widths": [6], "batch_norm": False}
    assert options.optimizer.synthesizer.learning_rate == 1.0
    assert options.optimizer.learning_rate == Config().optimizer.learning_rate


def test_a_set_of_a_whole_table_replaces_it(tmp_path: Path) -> None:
    path = written(tmp_path, "[network.options]\nwidths = [4, 5]\nbatch_norm = false")
    assert load(path, ["network.options={widths = [6]}"]).network.options == {"widths": [6]}


# --- paths ------------------------------------------------------------------------------------------------

PATHS = "[data]\ndataset = 'own.py:data'\npath = 'files'\n[network]\nmodel = 'net.py:build'"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, other than the configuration's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def anchors(config: Config) -> tuple[str, str | None, str]:
    return config.data.dataset, config.data.path, config.network.model


def test_a_relative_path_is_found_in_the_current_folder_first(tmp_path: Path, elsewhere: Path) -> None:
    for folder in (tmp_path, elsewhere):
        (folder / "files").mkdir()
        (folder / "own.py").touch()
        (folder / "net.py").touch()
    expected = (f"{elsewhere}/own.py:data", f"{elsewhere}/files", f"{elsewhere}/net.py:build")
    assert anchors(load(written(tmp_path, PATHS))) == expected


def test_a_relative_path_is_found_beside_the_configuration_next(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "own.py").touch()
    (elsewhere / "net.py").touch()
    expected = (f"{tmp_path}/own.py:data", f"{tmp_path}/files", f"{elsewhere}/net.py:build")
    assert anchors(load(written(tmp_path, PATHS))) == expected
    # The configuration's own path may be relative too.
    assert anchors(load(Path("../run.toml"))) == expected


def test_a_path_that_is_nowhere_is_absolute_in_the_current_folder(tmp_path: Path, elsewhere: Path) -> None:
    for path in (None, written(tmp_path, "")):
        config = load(path, ["data.path=files", "network.model=net.py:build"])
        assert anchors(config) == ("digits", f"{elsewhere}/files", f"{elsewhere}/net.py:build")


def test_an_absolute_path_stays_and_a_built_in_name_is_no_path(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "mnist").mkdir()
    assert anchors(load(None, ["data.dataset=mnist", "data.path=/a/b"])) == ("mnist", "/a/b", "mlp")


def test_a_relative_file_of_tokens_becomes_absolute_and_a_kind_of_tokens_stays(
    tmp_path: Path, elsewhere: Path
) -> None:
    (tmp_path / "own.json").touch()
    (tmp_path / "words").touch()
    path = written(tmp_path, '[data]\ndataset = "text"\ntokens = "own.json"\n')
    assert load(path).data.tokens == f"{tmp_path}/own.json"
    for name in ("words", "word"):
        assert load(path, [f"data.tokens={name}"]).data.tokens == name


def test_a_path_too_long_for_any_disk_is_left_for_its_reader_to_refuse(tmp_path: Path) -> None:
    path = load(None, [f"data.path={'a' * 300}"]).data.path
    assert path is not None
    assert os.path.isabs(path)


def test_unset_keys_are_left_out_of_toml() -> None:
    assert "path" not in tomllib.loads(Config().to_toml())["data"]


def test_resolved_cuts_replace_the_number_of_layers() -> None:
    config = load(None, ["network.layers=2"]).with_cuts([2])
    assert (config.layers, config.network.layers, config.network.cuts) == (2, None, [2])
    assert parse(config.to_toml(), "resolved") == config


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().run.seed = 3  # type: ignore[misc]


def test_a_layer_has_keys_of_its_own_and_shares_the_others() -> None:
    config = parse(
        "[network]\nlayers = 3\n[optimizer]\nname = 'sgd'\nmomentum = 0.9\nweight_decay = 0.1\n"
        "[optimizer.layers]\n2 = {learning_rate = 0.5, momentum = 0.0}\n3 = {name = 'adam'}",
        "run.toml",
    ).optimizer
    assert config.of_layer(1) is config
    second, third = config.of_layer(2), config.of_layer(3)
    assert (second.name, second.learning_rate, second.momentum, second.weight_decay) == ("sgd", 0.5, 0.0, 0.1)
    assert (third.name, third.learning_rate, third.momentum, third.weight_decay) == ("adam", 1e-3, 0.0, 0.1)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([], "classification"),
        (["data.dataset=text"], "language"),
        (["data.dataset=tokens"], "language"),
        (["data.dataset=text", "task.kind=regression"], "regression"),
        (["data.dataset=mnist"], "classification"),
        (["data.dataset=own.py:load"], "classification"),
    ],
)
def test_the_task_is_that_of_the_data_unless_it_is_given(given: list[str], kind: str) -> None:
    assert load(None, given).task.kind == kind


TWO = ["data.dataset=text", "network.layers=2"]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ([], ("update", "none")),
        (["network.layers=2"], ("update", "none")),
        ([*TWO], ("delayed", "proximal")),
        (["data.dataset=text"], ("update", "none")),
        (["data.dataset=text", "network.model=gpt", "network.layers=5"], ("update", "none")),
        (["data.dataset=text", "network.cuts=[1, 2]"], ("delayed", "proximal")),
        (["data.dataset=own.py:load", "task.kind=language", "network.layers=3"], ("delayed", "proximal")),
        ([*TWO, "decoupling.unlock=delayed"], ("delayed", "none")),
        ([*TWO, "decoupling.in_flight=2"], ("delayed", "proximal")),
        ([*TWO, "decoupling.backward=stash"], ("delayed", "none")),
        ([*TWO, "decoupling.correction=none"], ("delayed", "none")),
        ([*TWO, "decoupling.gradient=cdni"], ("update", "none")),
        ([*TWO, "cluster.synthesis=slave"], ("delayed", "proximal")),
        ([*TWO, "cluster.synthesis=master"], ("update", "none")),
        ([*TWO, "network.model=lstm", "time.window=3"], ("update", "none")),
    ],
)
def test_the_unlock_is_what_suits_the_task_unless_a_key_asks_for_another(
    given: list[str], chosen: tuple[str, str]
) -> None:
    decoupling = load(None, given).decoupling
    assert (decoupling.unlock, decoupling.correction) == chosen


def test_a_written_configuration_keeps_its_unlock() -> None:
    config = load(None, [*TWO, "decoupling.unlock=update"])
    assert parse(config.to_toml(), "run.toml").decoupling.unlock == "update"
