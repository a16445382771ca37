"""The script of `manifest slurm`: its options, its words for the shell, and what is refused."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import click
import pytest

from common.errors import ConfigError
from deploy import cli
from deploy.engines.slurm import lead_seconds
from tests.deploy.engines.manifests import COPIES, DIGITS, GOLDEN, ask, without_configuration


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "digits.toml"
    path.write_text(DIGITS)
    return path


def sbatch_options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize("name", [name for name in COPIES if name.endswith(".sh")])
def test_a_script_is_the_golden_copy_and_the_shell_reads_it(config: Path, name: str) -> None:
    kind, *options = COPIES[name]
    script = ask(config, kind, *options)
    assert without_configuration(script) == (GOLDEN / name).read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_a_job_has_a_part_for_the_master_and_a_task_for_every_slave(config: Path) -> None:
    options = sbatch_options(ask(config, "slurm", "--set", "downpour.replicas=2", "--partition", "long"))
    parts = " ".join(options).split(" hetjob ")
    assert len(parts) == 2
    assert "--requeue" in parts[0]
    assert "--ntasks=6" in parts[1]
    assert all("--partition=long" in part for part in parts)


def test_a_job_has_a_part_for_stores_which_stop_after_the_slaves(config: Path) -> None:
    script = ask(config, "slurm", "--set", "cluster.stores=2", "--partition", "long")
    parts = " ".join(sbatch_options(script)).split(" hetjob ")
    assert len(parts) == 3
    assert "--ntasks=2" in parts[2]
    assert "--partition=long" in parts[2]
    stops = [line.split('"')[1] for line in script.splitlines() if "scancel" in line]
    assert stops == ["$SLURM_JOB_ID+1", "$SLURM_JOB_ID+2"]


@pytest.mark.parametrize(
    "options",
    [[], ["--insecure"], ["--tls", "/shared/tls"], ["--set=cluster.stores=2"],
     ["--set=cluster.stores=2", "--insecure"]],
    ids=str,
)  # fmt: skip
def test_the_commands_of_a_script_have_the_options_that_it_gives(config: Path, options: list[str]) -> None:
    script = ask(config, "slurm", *options).replace("\\\n", " ")
    words = [shlex.split(line.split(">")[0]) for line in script.splitlines() if " layerwise " in f" {line}"]
    inner = [shlex.split(each[-2]) for each in words if "srun" in each]
    seen = set()
    for line in [*words, *inner]:
        if "layerwise" not in line or line[0] == "#":
            continue
        name, *arguments = line[line.index("layerwise") + 1 :]
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        command.make_context(name, [word for word in arguments if word not in ("&", "||", "exit")])
        seen.add(name)
    assert seen >= {"master", "slave", "evaluate"}
    assert ("store" in seen) == ("--set=cluster.stores=2" in options)
    assert ("certificates" in seen) == (not {"--insecure", "--tls"} & {*options})


@pytest.mark.parametrize(
    ("time", "lead"),
    [("1", 15), ("2:00", 30), ("30", 120), ("1:00:00", 120), ("1-0", 120), ("1-00:30", 120), ("0-0:4:0", 60)],
)
def test_a_run_stops_two_minutes_or_a_quarter_of_the_time_before_the_limit(time: str, lead: int) -> None:
    assert lead_seconds(time) == lead


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--time", "soon"], "--time soon: .* give minutes"),
        (["--time", "0:30"], "--time 0:30: .* give minutes"),
        (["--partition", "a\n#SBATCH --uid=0"], "--partition .*sinfo"),
        (["--insecure", "--tls", "x"], "either --tls or --insecure"),
        (["--set", "cluster.profile=synchronous"], "cluster.profile: .* use `layerwise train`"),
        (
            [f"--set=security.{key}=/x.pem" for key in ("ca", "certificate", "key")],
            r"security.ca: .* leave section \[security\] out",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(config: Path, options: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        ask(config, "slurm", *options)


def test_files_of_the_user_are_found_in_their_folder_whatever_its_name(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    (folder / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    script = ask(
        config, "slurm", "--set", f"network.model={folder / 'net.py'}:build", "--set", "network.cuts=[1]"
    )
    told = [line for line in script.replace("\\\n", " ").splitlines() if "--code" in line]
    assert len(told) == 2
    inner = shlex.split(next(line for line in told if "srun" in line))[-2]
    evaluator = next(line for line in told if "srun" not in line)
    for line in (inner, evaluator):
        assert f"--code={folder}" in shlex.split(line)
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_files_of_the_user_in_two_folders_are_refused(tmp_path: Path, config: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("def make():\n    pass\n")
    options = [f"--set={key}={tmp_path / name / 'mine.py'}:make" for key, name in
               (("network.model", "a"), ("data.dataset", "b"))]  # fmt: skip
    with pytest.raises(ConfigError, match="one folder: move the files"):
        ask(config, "slurm", *options)
