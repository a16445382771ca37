"""Every command of the README works as it is written."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import ROOT, Cli, HandMade

README = (ROOT / "README.md").read_text(encoding="utf-8")
MNIST = ROOT.parent / "shared" / "data" / "mnist"
COMMANDS = [
    (place, line.strip().partition("#")[0].strip())
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for place, line in re.findall(r"^(\w*)\$ (.*)$", block, re.MULTILINE)
]


def _here() -> list[str]:
    """The commands for this machine, but for `make`."""
    return [command for place, command in COMMANDS if not place and command.startswith("layerwise ")]


def test_the_readme_has_commands_of_every_kind() -> None:
    places = {"", "one", "two", "any", "hub", "box", "far", "web", "own", "ray"}
    assert {place for place, _ in COMMANDS} == places
    subcommands = {shlex.split(command)[1] for _, command in COMMANDS if command.startswith("layerwise")}
    assert subcommands == {
        "train", "evaluate", "export", "config", "master", "slave", "status", "snapshot", "rollback",
        "simulate", "compare", "generate", "init", "explain", "runs", "manifest", "store", "resize",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_for_one_machine_run_in_their_order(cli: Cli) -> None:
    (cli.folder / "examples").symlink_to(ROOT / "examples")
    for command in _here():
        words = shlex.split(command)[1:]
        if "MNIST_FOLDER" in command:
            if not MNIST.exists():
                continue
            words = [word.replace("MNIST_FOLDER", str(MNIST)) for word in words]
        words = [word.replace("TEXT_FILE", str(ROOT / "README.md")) for word in words]
        words, output = _redirected(words)
        done = cli.run(*words)
        assert done.returncode == 0, (command, done.stderr)
        if output:
            (cli.folder / output).write_text(done.stdout)


def test_the_commands_for_several_machines_make_a_cluster(cli: Cli, by_hand: HandMade) -> None:
    """As written, but on loopback and at a free port: all terminals are on this machine."""
    # A later block has the commands of a run with stores.
    said = {(place, shlex.split(c)[1]): shlex.split(c)[1:] for place, c in reversed(COMMANDS) if place}
    words, output = _redirected(said["one", "config"])
    (cli.folder / str(output)).write_text(cli.run(*words).stdout)
    assert said["one", "master"] == [
        "master",
        "run.toml",
        "--listen",
        "0.0.0.0:50051",
        "--insecure",
        "--state-dir",
        "state",
    ]
    by_hand.master("--insecure", "--set", "cluster.heartbeat_seconds=0.4", listen="0.0.0.0:0")
    by_hand.address = by_hand.address.replace("0.0.0.0", "127.0.0.1")
    here = {key: [word.replace("one:50051", by_hand.address) for word in c] for key, c in said.items()}
    assert here["two", "slave"] == ["slave", "--master", by_hand.address, "--join-token-file", "join.token"]
    copy_tokens(cli)
    slaves = [cli.start(*here["two", "slave"]) for _ in range(3)]
    watching = cli.start(*here["any", "status"])
    evaluated = cli.run(*here["any", "evaluate"])
    assert evaluated.returncode == 0, evaluated.stderr
    assert (cli.folder / "runs" / "by-hand" / "summary.json").exists()
    assert [slave.wait(30) for slave in slaves] == [0, 0, 0]
    assert watching.wait(30) == 0
    for command in ("snapshot", "rollback"):
        done = cli.run(*here["any", command])
        assert done.returncode == 0, done.stderr


def copy_tokens(cli: Cli) -> None:
    """Copy the tokens out of the state directory, as to another machine."""
    for name in ("join.token", "operator.token"):
        shutil.copy(cli.folder / "state" / name, cli.folder)


def test_the_commands_of_profile_basic_make_a_cluster(by_hand: HandMade) -> None:
    said = {place: shlex.split(command)[1:] for place, command in COMMANDS if place in ("hub", "box", "far")}
    assert said["hub"][:4] == ["master", "run.toml", "--set", "cluster.profile=basic"]
    sets = ["--set", "cluster.profile=basic", "--set", "run.batches=100"]
    by_hand.master(*sets, "--insecure", listen="0.0.0.0:0")
    by_hand.address = by_hand.address.replace("0.0.0.0", "127.0.0.1")
    copy_tokens(by_hand.cli)
    here = {"hub:50051": by_hand.address, "0.0.0.0:50052": "0.0.0.0:0", "far.example:50052": "localhost:0"}
    slaves = []
    for place in ("box", "far", "box"):
        subcommand, _, address, *words = (here.get(word, word) for word in said[place])
        assert (subcommand, address) == ("slave", by_hand.address)
        slaves.append(by_hand.slave(*words))
    assert [slave.wait(60) for slave in slaves] == [0, 0, 0]


def test_the_exported_model_is_used_as_the_document_says(cli: Cli) -> None:
    block, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "model.md").read_text(), re.DOTALL)
    assert cli.run("train", "--set", "run.batches=20", "--run-dir", "run").returncode == 0
    assert cli.run("export", "run", "--output", "model.safetensors").returncode == 0
    script = block + "\nassert logits.shape == (5, 10)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=cli.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["run", "test"])
def test_make_says_what_the_readme_says(target: str) -> None:
    assert f"make {target}" in README
    recipe = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"run": "layerwise train", "test": "pytest"}[target] in recipe


def _redirected(words: list[str]) -> tuple[list[str], Path | None]:
    if ">" not in words:
        return words, None
    place = words.index(">")
    return words[:place], Path(words[place + 1])
