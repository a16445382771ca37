"""init, explain, runs, open, completion: the commands of the first hour."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.config import files, settings
from common.errors import ConfigError
from common.wire.messages import StatusReply
from deploy import cli as command
from deploy import screen
from deploy.console import PlainConsole
from deploy.guidance.explaining import OPTIONS, OTHER_PAGE, PAGES, explain, find_key, list_keys
from deploy.guidance.starting import FILES, write_starter
from deploy.runs.directory import RunDirectory
from deploy.runs.listing import find_page, list_runs
from tests.deploy.finished import write_run
from tests.deploy.runs import resolved
from tests.integration.processes import QUICK, ROOT, Cli


@dataclass
class Done:
    """Result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> object:
    """The command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        return Done(command.run(list(arguments)), *capfd.readouterr())

    return call


def test_init_asks_nothing_and_what_it_writes_trains(run: object, tmp_path: Path) -> None:
    assert callable(run)
    done = run("init", "mine")
    assert done.code == 0
    assert "train with: layerwise train mine/run.toml" in done.err
    assert {path.name for path in (tmp_path / "mine").iterdir()} == set(FILES)
    quick = ["--set", "cluster.profile=synchronous", "--set", "run.batches=150", "--json"]
    trained = run("train", "mine/run.toml", *quick)
    assert trained.code == 0, trained.err
    summary = json.loads(trained.out)
    assert (summary["layers"], summary["name"]) == (2, "first")
    assert summary["test_error_percent"] < 20


def test_init_overwrites_nothing(run: object, tmp_path: Path) -> None:
    assert callable(run)
    (tmp_path / "my_data.py").write_text("mine")
    done = run("init")
    assert done.code == 2
    assert "my_data.py exists already" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["my_data.py"]
    assert (tmp_path / "my_data.py").read_text() == "mine"


def test_the_starter_gives_every_section_that_a_beginner_changes(tmp_path: Path) -> None:
    path = write_starter(tmp_path)[0]
    config = files.load(path)
    assert config.data.dataset == f"{tmp_path / 'my_data.py'}:load"
    comments = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    sections = {line.strip("[]") for line in comments if line.startswith("[")}
    assert sections == {"run", "data", "network", "task", "decoupling", "optimizer"}


def test_every_key_section_and_option_is_explained() -> None:
    options = [
        f"{table}.{key}"
        for table, (_, rows) in OPTIONS.items()
        for row in rows.values()
        for key in settings.keys(row.options)
    ]
    assert "network.options.widths" in options
    for name in [*list_keys(), *options]:
        lines = explain(name)
        assert lines[-1].startswith("page: "), name
        assert name in lines[0]


def test_a_key_is_explained_with_its_default_values_and_those_who_heed_it() -> None:
    assert explain("decoupling.in_flight")[1:4] == [
        "default: unset",
        "value: a whole number, at least 1",
        'heeded with decoupling.unlock = "update" or "full" or "delayed" or "local" or "alignment"',
    ]
    assert explain("batch_size") == explain("run.batch_size")
    text = "\n".join(explain("unlock"))
    assert 'default: "update"' in text
    heeded = "gradient_options, in_flight, synthesizer_steps"
    assert re.search(rf"^  local +a head and a loss a layer; heeds {heeded}$", text, re.M)
    assert "default: [256, 256]" in explain("network.options.widths")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("momentun", 'explain momentun: unknown key; did you mean "optimizer.momentum"'),
        ("learning_rate", "2 keys have this name; give optimizer.learning_rate or optimizer.synth"),
        ("network.options.width2", 'did you mean "network.options.width'),
    ],
)
def test_a_name_that_no_key_has_is_refused_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        explain(name)


def test_the_pages_of_keys_exist() -> None:
    for page in {*PAGES.values(), OTHER_PAGE, *command.ERROR_PAGES.values()}:
        file, _, anchor = page.partition("#")
        titles = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, page
    assert PAGES.keys() <= set(list_keys())


def test_a_key_with_a_page_of_its_own_names_that_page() -> None:
    assert explain("network.initial")[-1] == "page: docs/model.md#other-checkpoints"
    assert explain("network.layers")[-1] == "page: README.md#your-own-network-your-own-data"


def test_an_error_about_a_key_names_the_command_that_explains_it(run: object) -> None:
    assert callable(run)
    done = run("train", "--set", "run.batches=0")
    assert done.err == (
        "layerwise: --set: run.batches: 0 is too small; at least 1 is needed "
        "(`layerwise explain run.batches` says more)\n"
    )
    assert find_key("a/b.toml: data.path: is no folder") == "data.path"


USAGE = "docs/errors.md#2-usage-or-configuration"


@pytest.mark.parametrize(
    ("arguments", "pointer"),
    [
        (["train", "--set", "run.batchse=1"], USAGE),
        (["train", "no-such.toml"], USAGE),
        (["train", "--set", "batches=1"], USAGE),
        (["train", "--set", "data.path=no-such-folder"], "`layerwise explain data.path`"),
        (["train", "--set", "network.model=no-such.py:build"], USAGE),
        (["explain", "learning_rate"], USAGE),
        (["open", "no-such-run"], USAGE),
        (["evaluate", "no-such-run"], USAGE),
        (
            ["status", "--master", "127.0.0.1:1", "--tls", "no-such"],
            "docs/errors.md#2-usage-or-configuration",
        ),
        (["status", "--master", "127.0.0.1:1"], command.ERROR_PAGES[3]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_error_names_what_says_more(run: object, arguments: list[str], pointer: str) -> None:
    assert callable(run)
    done = run(*arguments)
    assert done.code == int(pointer.partition("#")[2][:1] or 2)
    assert done.err.splitlines()[-1].endswith(f"({pointer} says more)"), done.err


def test_runs_are_listed_with_their_states(run: object, tmp_path: Path) -> None:
    assert callable(run)
    write_run(tmp_path / "runs" / "done")
    for name in ("stopped", "going"):
        directory = RunDirectory(tmp_path / "runs" / name)
        directory.begin(resolved("network.options.widths=[8]"))
        if name == "stopped":
            directory.close()
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "config.toml").write_text("[run")
    listed = {Path(each["path"]).name: each for each in json.loads(run("runs", "--json").out)}
    mine = {name: each["state"] for name, each in listed.items() if name in ("done", "stopped", "going")}
    assert mine == {"done": "finished", "stopped": "stopped", "going": "training"}
    assert "torn" not in listed
    assert listed["going"]["of_batches"] == 40
    assert "runs/stopped" in run("runs").out
    directory.close()


def test_a_live_run_is_listed_and_opened_from_any_folder(cli: Cli, tmp_path: Path) -> None:
    long = ["--set", "run.batches=100000", "--run-dir", "elsewhere/run"]
    training = cli.start("train", *QUICK, *long)
    page = cli.wait_for(training, "live page", "stderr").split()[-1]
    listed = {each.path: each for each in list_runs(tmp_path / "none")}
    here = str(tmp_path / "elsewhere" / "run")
    assert (listed[here].state, listed[here].page) == ("training", page)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path / "opened"}\n')
    browser.chmod(0o755)
    cli.environment["BROWSER"] = str(browser)
    assert cli.run("open", "elsewhere/run").stdout.strip() == page
    assert (tmp_path / "opened").read_text().strip() == page
    training.terminate()
    assert training.wait(60) == 130
    done = cli.run("open", "elsewhere/run")
    assert done.returncode == 2
    assert "resume the run with: layerwise train --run-dir elsewhere/run" in done.stderr


@pytest.mark.parametrize("noted", ["127.0.0.1:8080", "https://one:8080"])
@pytest.mark.parametrize("given", [["--state-dir", "state"], ["--state-dir=state"]])
def test_the_page_of_a_living_master_has_the_scheme_that_the_master_speaks(
    given: list[str], noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["python", "-m", "deploy.cli", "master", *given]
    living = SimpleNamespace(info={"cmdline": words, "cwd": str(tmp_path)})
    monkeypatch.setattr("psutil.process_iter", lambda _: [living])
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "web").write_text(noted)
    address = noted if "://" in noted else f"http://{noted}"
    assert find_page(tmp_path / "state") == f"{address}/"


def test_a_finished_run_has_a_page_that_needs_nothing_else(
    run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(run)
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    quick = ["--set", "cluster.profile=synchronous", "--set", "run.batches=10", "--set", "run.name=a<b"]
    assert run("train", *quick, "--run-dir", "runs/one").code == 0
    done = run("open", "one")
    assert done.out.strip() == (tmp_path / "runs" / "one" / "run.html").as_uri()
    page = (tmp_path / "runs" / "one" / "run.html").read_text()
    # For a screen reader, and for keys where the page is narrow.
    assert '<div class="wide" role="region" tabindex="0" aria-label="Results">' in page
    assert '<th scope="row">method</th>' in page
    assert '<pre tabindex="0">' in page
    assert "a&lt;b" in page
    assert page.count("data:image/png;base64,") == 3
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "batches = 10" in page
    missing = run("open", "none")
    assert missing.code == 2
    assert "`layerwise runs` lists the runs" in missing.err


@pytest.mark.parametrize("name", ["compare.html", "analysis.html"])
def test_the_page_of_several_runs_is_opened(
    run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert callable(run)
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    (tmp_path / "runs" / "two").mkdir(parents=True)
    refused = run("open", "two")
    assert refused.code == 2
    assert "no finished run, comparison or analysis" in refused.err
    assert "`layerwise runs` lists the runs" in refused.err
    (tmp_path / "runs" / "two" / name).write_text("a page")
    assert run("open", "two").out.strip() == (tmp_path / "runs" / "two" / name).as_uri()


def test_a_missing_choice_is_told_without_escapes(run: object) -> None:
    assert callable(run)
    done = run("completion")
    assert "bash" in done.err
    assert "\\t" not in done.err


def test_a_shell_completes_commands_and_keys(tmp_path: Path) -> None:
    program = tmp_path / "layerwise"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m deploy.cli "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(layerwise completion bash)"; complete -p layerwise; COMP_CWORD=$1; shift; COMP_WORDS=("$@");'
        ' _layerwise_completion layerwise; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def complete(*words: str) -> list[str]:
        arguments = ["bash", "-c", script, "bash", str(len(words) - 1), *words]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
        bound, *replies = done.stdout.splitlines()
        assert bound.endswith("layerwise")
        return replies

    assert sorted(complete("layerwise", "ex")) == ["explain", "export"]
    assert complete("layerwise", "train", "--set", "run.ba") == ["run.batches=", "run.batch_size="]
    assert complete("layerwise", "explain", "cluster.w") == ["cluster.wire"]


def test_progress_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "LINE_SECONDS", 0)
    file = io.StringIO()
    shown = screen.Screen(resolved(), PlainConsole(file=file, width=200))
    for batches in (10, 20, 30):
        shown.show(StatusReply(state="training", batches=batches, of_batches=40))
        time.sleep(0.01)
    first, *_, last = file.getvalue().splitlines()
    assert not first.endswith("left")
    assert re.search(r"  0:00:0\d left$", last)
