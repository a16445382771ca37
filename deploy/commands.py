"""Subcommands that are not processes of a cluster."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.config.numbers import NonNegative
from common.config.options import (
    PLACE,
    cluster_tls_option,
    code_option,
    config_argument,
    data_option,
    json_option,
    master_option,
    optional_config_argument,
    out_option,
    run_dir_option,
    set_option,
    tls_option,
    token_option,
)
from common.errors import ConfigError
from common.observe.logs import FORMATS
from common.text import answer
from deploy.engines.placement import ENGINES, Placement

if TYPE_CHECKING:
    from deploy.train import Training


_TRACK = click.option(
    "--track",
    multiple=True,
    metavar="TRACKER",
    help="Also tell a tracker of experiments: tensorboard, wandb or mlflow; may be repeated.",
)


@click.command()
@optional_config_argument
@set_option
@run_dir_option(
    "Folder for the results; an unfinished run in it is resumed. Default: a new folder under runs/."
)
@json_option
@_TRACK
@cluster_tls_option("; the processes then speak TLS with each other.")
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="plain",
    show_default=True,
    help="Format of the processes' logs, in the run directory's logs/.",
)
@click.option(
    "--on",
    type=click.Choice(list(ENGINES)),
    default="local",
    show_default=True,
    help=f"Engine that places the slaves: {ENGINES.describe()}.",
)
@click.option(
    "--address",
    metavar="ADDRESS",
    help="With --on ray: HOST:PORT of the Ray cluster; auto: the one of this machine. Default: auto.",
)
@click.option(
    "--cpus",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --on ray: CPU cores of each slave, and its threads. Default: 1.",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --on ray: GPUs of each slave. Default: 0.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="With --on ray: memory of each slave, for example 2Gi. Default: none is asked for.",
)
def train(
    config: Path | None,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    as_json: bool,
    track: tuple[str, ...],
    tls: Path | None,
    log_format: str,
    on: str,
    address: str | None,
    cpus: int | None,
    gpus: int | None,
    memory: str | None,
) -> int:
    """Train a network with a master and slaves, to the end of the run.

    CONFIG is a TOML file; without it, the default run learns handwritten digits. An interrupted run keeps its
    state and prints the command that resumes it. The master and the result files are on this machine; so are
    the slaves, unless --on names another engine.
    """
    from common.config.files import load

    placement = Placement(on, address, cpus, gpus, memory)
    requested = load(config, overrides) if config or overrides else None
    # Imported late, so that a refused configuration is reported at once.
    from deploy.train import Training

    training = Training(requested, run_dir, track=track, tls=tls, placement=placement, log_format=log_format)
    return _finish(training, as_json)


def _finish(training: Training, as_json: bool) -> int:
    """Train to the end of a run or to an interrupt, print the result, and return the exit code."""
    from common.lifecycle import INTERRUPTED, Interrupt, end_with_parent
    from common.output import divert_output
    from deploy.screen import print_result

    end_with_parent()
    with divert_output(), Interrupt(training.stop):
        trained = training.run()
    if trained is None:
        return INTERRUPTED
    print_result(trained.summary, trained.path, as_json)
    if trained.incomplete:
        raise trained.incomplete
    return 0


@click.command()
@optional_config_argument
@set_option
@click.option(
    "--slaves",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of slaves; repeat for more rows. Default: the number in CONFIG.",
)
@click.option(
    "--measure", is_flag=True, help="Measure the speed of a slave on this machine for a second, and use it."
)
@click.option("--train", "trains", is_flag=True, help="Also train, and write a run's result files.")
@run_dir_option("With --train: folder for the results.")
@json_option
def simulate(
    config: Path | None,
    overrides: tuple[str, ...],
    slaves: tuple[int, ...],
    measure: bool,
    trains: bool,
    run_dir: Path | None,
    as_json: bool,
) -> int:
    """Predict throughput, staleness, delay and utilization of 2 to 1,000 slaves, without a cluster.

    The slaves' and the master's own code runs in this process under a virtual clock, on machines that section
    [simulation] describes. Equal seeds give equal numbers. With --train the layers are trained too: the
    results include the test error, and their seconds are virtual.
    """
    from common.config.files import load

    settings = load(config, overrides)
    if not trains and run_dir is not None:
        raise ConfigError("simulate --run-dir: only --train writes results; add --train or omit --run-dir")
    if trains and (slaves or measure):
        raise ConfigError("simulate --train: runs the cluster of CONFIG; omit --slaves and --measure")
    if trains:
        from deploy.train import Training

        return _finish(Training(settings, run_dir, simulated=True), as_json)
    from deploy.simulation.simulate import show

    return show(settings, slaves, measure, as_json)


@click.command()
@config_argument
@set_option
@click.option(
    "--over",
    multiple=True,
    metavar="SECTION.KEY=A,B,...",
    help="Try each of these values of a key; repeated, try all combinations.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="N", help="Runs of each variant. Default: CONFIG's, or 1."
)
@click.option(
    "--in",
    "place",
    type=click.Choice(["cluster", "driver", "synchronous"]),
    default="driver",
    show_default=True,
    help="Run on real processes, on simulated machines under a virtual clock, or with all layers in step.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, metavar="N", help="Number of runs at a time.")
@out_option
@json_option
def compare(
    config: Path,
    overrides: tuple[str, ...],
    over: tuple[str, ...],
    seeds: int | None,
    place: str,
    jobs: int,
    out: Path | None,
    as_json: bool,
) -> int:
    """Compare methods on equal terms: print a table; write compare.json, plots and a page, compare.html.

    The methods are CONFIG's sections [compare.variants."NAME"], each with the keys in which it differs, times
    the values of --over. A variant with cluster.profile = "synchronous" trains all layers on one machine.
    """
    from deploy.comparison.compare import ComparisonRun, show
    from deploy.comparison.variants import read

    return show(ComparisonRun(read(config, overrides, over, seeds, place), place, jobs, out), as_json)


@click.command()
@click.argument(
    "run_dirs",
    metavar="RUN_DIR...",
    nargs=-1,
    required=True,
    type=PLACE,
)
@out_option
@data_option
@code_option
@json_option
def analyze(
    run_dirs: tuple[Path, ...], out: Path | None, data: Path | None, code: Path | None, as_json: bool
) -> int:
    """Plot what the networks of runs have learned: write analysis.json, plots and a page, analysis.html.

    Of one run all networks that it has kept (run.keep) are compared, of several runs the last network of
    each: representations and linear probes by unit, norms and changes of weights, M's gradients against the
    true ones, and the loss that M implies.
    """
    from deploy.analysis.analyze import analyze as analyze_runs

    return analyze_runs(run_dirs, out, data, code, as_json=as_json)


@click.command()
@click.argument("run_dir", required=False, type=PLACE)
@master_option
@click.option(
    "--watch", is_flag=True, help="With --master: evaluate until the run's end, and write the result files."
)
@click.option(
    "--checkpoint",
    type=PLACE,
    metavar="FILE",
    help="Model file to measure in place of RUN_DIR's last model, such as best.safetensors or "
    "kept-400.safetensors in it.",
)
@data_option
@code_option
@token_option
@tls_option
@json_option
def evaluate(
    run_dir: Path | None,
    master: str | None,
    watch: bool,
    checkpoint: Path | None,
    data: Path | None,
    code: Path | None,
    token_file: Path | None,
    tls: Path | None,
    as_json: bool,
) -> int:
    """Measure the test error of a run directory, or of a live master.

    With --watch, the result files are written to RUN_DIR, by default a new folder under runs/.
    """
    from deploy.evaluation.evaluate import evaluate_directory, evaluate_master

    if master is None:
        if run_dir is None:
            raise ConfigError("evaluate: give a run directory, or --master HOST:PORT of a live run")
        if watch:
            raise ConfigError("evaluate --watch: add --master HOST:PORT; a run directory does not change")
        return evaluate_directory(run_dir, data, code, as_json, checkpoint)
    if checkpoint is not None:
        raise ConfigError("evaluate --checkpoint: is of a run directory; give that, and no --master")
    if run_dir is not None and not watch:
        raise ConfigError("evaluate: give either a run directory or --master; both only with --watch")
    return evaluate_master(master, run_dir, watch, data, code, as_json, token_file, tls)


@click.command()
@click.argument("run_dir", required=False, type=PLACE)
@master_option
@click.option(
    "--output",
    required=True,
    type=PLACE,
    metavar="FILE",
    help="File to write; its name ends in .safetensors or .pt.",
)
@data_option
@code_option
@tls_option
def export(
    run_dir: Path | None,
    master: str | None,
    output: Path,
    data: Path | None,
    code: Path | None,
    tls: Path | None,
) -> int:
    """Write the plain network's state dict, which torch loads without layerwise.

    A run directory has all that is needed; --data and --code are for --master.
    """
    from deploy.evaluation.export import export_directory, export_master

    if run_dir is not None and master is None:
        if data or code:
            raise ConfigError(f"export {run_dir}: leave out --data and --code, which are for --master")
        return export_directory(run_dir, output)
    if run_dir is not None or master is None:
        raise ConfigError("export: give either a run directory or --master HOST:PORT")
    return export_master(master, output, data, code, tls)


@click.command()
@click.argument("run_dir", type=PLACE)
@click.option("--prompt", required=True, metavar="TEXT", help="Beginning of the text.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Number of tokens to sample.",
)
@click.option(
    "--temperature",
    type=NonNegative(),
    default=1.0,
    show_default=True,
    metavar="T",
    help="Divisor of the logits; 0 takes the likeliest token.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    metavar="K",
    help="Sample from the K likeliest tokens. Default: from all.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of the draws. Default: another one each time."
)
@code_option
@json_option
def generate(
    run_dir: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int | None,
    code: Path | None,
    as_json: bool,
) -> int:
    """Sample text that follows a prompt from the network of a finished run with data.dataset = "text"."""
    from deploy.evaluation.generate import Sampling
    from deploy.evaluation.generate import generate as sample

    seed = secrets.randbits(32) if seed is None else seed
    return sample(run_dir, prompt, tokens, Sampling(temperature, top_k, seed), as_json, code)


@click.command()
@click.argument("path", metavar="CONFIG", required=False, type=PLACE)
@set_option
def config(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print every key with its default and meaning, as TOML to edit; CONFIG and --set change the values."""
    from common.config.files import describe, load

    for line in describe(load(path, overrides)).rstrip("\n").split("\n"):
        answer(line)
