"""Whatever cannot be: one clear line, the documented exit code, and no process left behind."""

from __future__ import annotations

import socket
import time

import pytest

from tests.integration.processes import Cli, HandMade

RAISES = "def build():\n    raise OSError('no weights here')\n"
MISFIT = """
from torch import nn
def build():
    return [nn.Flatten(), nn.Linear(64, 32), nn.Linear(33, 10)]
"""
NO_NETWORK = "def build():\n    return 3\n"
DATA = "def load():\n    raise ValueError('no data today')\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.toml"], "missing.toml: cannot be read"),
        (["--set", "run.batchs=3"], 'run.batchs: unknown key; did you mean "run.batches"?'),
        (["--set", "run.batches=many"], "--set: run.batches: expected a whole number, got 'many'"),
        (["--set", "network.layers=7"], "7 layers cannot be cut from the 3 units"),
        (["--set", "run.batch_size=5000"], "5000 is more than the 1437 training examples of digits"),
        (["--set", "data.path=nowhere"], "nowhere is not a folder"),
        (["--set", "data.dataset=mnist", "--set", "data.path=."], "lacks train-images-idx3-ubyte"),
        (["--set", "network.model=raises.py:build"], "no weights here"),
        (["--set", "network.model=raises.py:built"], "built"),
        (["--set", "network.model=absent.py:build"], "absent.py"),
        (["--set", "network.model=misfit.py:build"], "cannot take (B, 32)"),
        (["--set", "network.model=nothing.py:build"], "returns 3"),
        (["--set", "data.dataset=data.py:load"], "no data today"),
        (["--unknown"], "No such option"),
    ],
)
def test_a_run_that_cannot_be_is_refused(cli: Cli, arguments: list[str], said: str) -> None:
    for name, text in (("raises", RAISES), ("misfit", MISFIT), ("nothing", NO_NETWORK), ("data", DATA)):
        (cli.folder / f"{name}.py").write_text(text)
    done = cli.run("train", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (cli.folder / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status", "--master", "127.0.0.1:42921"], 3, "127.0.0.1:42921"),
        (["evaluate", "--master", "127.0.0.1:42921"], 3, "127.0.0.1:42921"),
        (["export", "--master", "127.0.0.1:42921", "--output", "m.pt"], 3, "127.0.0.1:42921"),
        (["status", "--master", "nonsense"], 2, "HOST:PORT"),
        (["evaluate"], 2, "give a run directory"),
        (["evaluate", "nowhere"], 2, "nowhere"),
        (["export", "nowhere", "--output", "m.pt"], 2, "nowhere"),
        (["export", "nowhere", "--output", "m.onnx"], 2, ".safetensors"),
        (["slave", "--master", "nonsense"], 2, "HOST:PORT"),
        (["slave", "--master", "127.0.0.1:42921", "--join-token-file", "absent"], 2, "--join-token-file"),
        (
            ["store", "--master", "127.0.0.1:42921", "--state-dir", "s", "--join-token-file", "absent"],
            2,
            "absent",
        ),
        (["master", "absent.toml", "--state-dir", "s"], 2, "absent.toml"),
        (["master", "run.toml", "--state-dir", "s", "--listen", "0.0.0.0:0"], 2, "--insecure"),
        (["master", "run.toml", "--state-dir", "run.toml"], 3, "run.toml"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_a_command_that_cannot_be_is_refused(cli: Cli, arguments: list[str], code: int, said: str) -> None:
    (cli.folder / "run.toml").touch()
    done = cli.run(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_slave_that_lacks_the_data_or_the_code_says_so(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master()
    done = cli.run("slave", "--master", by_hand.address, "--data", "nowhere")
    assert done.returncode == 2
    assert "--data nowhere: does not exist" in done.stderr
    done = cli.run("slave", "--master", by_hand.address, "--device", "cuda:7")
    assert done.returncode == 2
    assert "--device cuda:7" in done.stderr


def test_what_needs_no_torch_answers_at_once(cli: Cli) -> None:
    for arguments in (["--help"], ["config"], ["train", "--set", "run.batchs=1"], ["train", "--help"]):
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            cli.run(*arguments)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.5, (arguments, seconds)


@pytest.mark.parametrize("option", ["--bulk-port", "--web"])
def test_a_master_whose_second_port_is_taken_says_so_in_one_line(cli: Cli, option: str) -> None:
    """The control port, open by then, used to leave a traceback of the library behind the error."""
    (cli.folder / "run.toml").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = str(port) if option == "--bulk-port" else f"127.0.0.1:{port}"
        done = cli.run("master", "run.toml", "--listen", "127.0.0.1:0", "--state-dir", "state", option, given)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert f"{option} 127.0.0.1:{port}: cannot be listened on" in done.stderr.splitlines()[-1]
