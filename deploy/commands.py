"""The subcommands that are not a process of a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from common.errors import ConfigError
from common.observe.logs import FORMATS

_SET = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key; the last wins."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON, and nothing else, on standard output.")
_TENSORBOARD = click.option(
    "--tensorboard", is_flag=True, help="Write the run's scalars for TensorBoard too, beside its other files."
)
_LIVE = click.option("--master", required=True, metavar="HOST:PORT", help="Where the master listens.")
_MASTER = click.option("--master", metavar="HOST:PORT", help="Where the master listens.")


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@_SET
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the results go; an unfinished run there is resumed. Default: a new folder under runs/.",
)
@_JSON
@_TENSORBOARD
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="plain",
    show_default=True,
    help="Of the processes' logs, in the run directory's logs/.",
)
def train(
    config: Path | None,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    as_json: bool,
    tensorboard: bool,
    log_format: str,
) -> int:
    """Train: a master and its slaves on this machine, to the end.

    Without CONFIG, the default run: handwritten digits. Interrupted, it keeps what was learned and says how
    to go on.
    """
    from common.config.files import load

    given = load(config, overrides) if config or overrides else None
    # After that, so that a refused configuration answers at once.
    from deploy.train import Training

    return Training(given, run_dir, as_json, tensorboard=tensorboard, log_format=log_format).run()


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@_SET
@click.option(
    "--slaves",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="So many; again for a further row. Default: as many as CONFIG has.",
)
@click.option(
    "--measure", is_flag=True, help="Measure for a second how fast a slave would be on this machine."
)
@click.option("--train", "trains", is_flag=True, help="Train, too, and write a run's result files.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), metavar="DIR", help="With --train: where the results go."
)
@_JSON
def simulate(
    config: Path | None,
    overrides: tuple[str, ...],
    slaves: tuple[int, ...],
    measure: bool,
    trains: bool,
    run_dir: Path | None,
    as_json: bool,
) -> int:
    """What 2 to 1,000 slaves would do, without a cluster: throughput, staleness, delay, utilization.

    The slaves' and the master's own code runs in this process under a virtual clock, on machines that the
    section [simulation] makes up. The same seed gives the same numbers. Nothing is trained unless --train is
    given; then accuracy is told too, and the seconds in the results are virtual.
    """
    from common.config.files import load

    given = load(config, overrides)
    if not trains and run_dir is not None:
        raise ConfigError("simulate --run-dir: is for --train, which alone leaves results; leave it out")
    if trains and (slaves or measure):
        raise ConfigError("simulate --train: trains what CONFIG says; leave out --slaves and --measure")
    if trains:
        from deploy.train import Training

        return Training(given, run_dir, as_json, simulated=True).run()
    from deploy.simulation.simulate import simulate as predict

    return predict(given, slaves, measure, as_json)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@_SET
@click.option(
    "--over",
    multiple=True,
    metavar="SECTION.KEY=A,B,...",
    help="Each of these values; several: all together.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), metavar="N", help="Runs of each; default: the file's, or 1."
)
@click.option(
    "--in",
    "place",
    type=click.Choice(["cluster", "driver", "synchronous"]),
    default="driver",
    show_default=True,
    help="Real processes, made-up machines under a virtual clock, or all layers in step.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, metavar="N", help="Runs side by side.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the results go; what is there already is kept. Default: a new folder under runs/.",
)
@_JSON
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
    """Methods side by side on equal terms: a table, compare.json, plots and one page, compare.html.

    The methods are CONFIG's [compare.variants."NAME"] sections, each a set of keys that differ, and what
    --over names. A variant with cluster.profile = "synchronous" has all layers on one machine.
    """
    from deploy.comparison.compare import Comparing
    from deploy.comparison.variants import read

    return Comparing(read(config, overrides, over, seeds, place), place, jobs, out, as_json).run()


@click.command()
@_LIVE
@_JSON
@click.option("--watch", is_flag=True, help="Go on until interrupted or the run is over.")
def status(master: str, as_json: bool, watch: bool) -> int:
    """How a run goes: layers, slaves, versions, staleness, throughput."""
    from deploy.status import show

    return show(master, as_json, watch)


@click.command()
@click.argument("run_dir", required=False, type=click.Path(path_type=Path))
@_MASTER
@click.option(
    "--watch", is_flag=True, help="Of a live master: go on to the run's end, writing the result files."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of the data set here, if elsewhere.",
)
@click.option(
    "--code", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the user's files here."
)
@_JSON
def evaluate(
    run_dir: Path | None, master: str | None, watch: bool, data: Path | None, code: Path | None, as_json: bool
) -> int:
    """Test error of a run directory, or of a live master.

    With --watch, the result files are written to RUN_DIR (by default a new folder under runs/).
    """
    from deploy.evaluation.evaluate import evaluate_directory, evaluate_master

    if master is None:
        if run_dir is None:
            raise ConfigError("evaluate: give a run directory, or --master HOST:PORT")
        if watch:
            raise ConfigError("evaluate --watch: needs --master HOST:PORT; a run directory does not change")
        return evaluate_directory(run_dir, data, code, as_json)
    if run_dir is not None and not watch:
        raise ConfigError("evaluate: give a run directory or --master, not both (but for --watch)")
    return evaluate_master(master, run_dir, watch, data, code, as_json)


@click.command()
@click.argument("run_dir", required=False, type=click.Path(path_type=Path))
@_MASTER
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .safetensors or .pt file.",
)
def export(run_dir: Path | None, master: str | None, output: Path) -> int:
    """Write the plain network's state dict: it loads in torch without this project."""
    from deploy.evaluation.export import export_run

    if (run_dir is None) == (master is None):
        raise ConfigError("export: give a run directory or --master HOST:PORT, one of the two")
    return export_run(run_dir, master, output)


@click.command()
@_LIVE
@click.option("--list", "listing", is_flag=True, help="Take none: say which there are, and which are whole.")
@_JSON
def snapshot(master: str, listing: bool, as_json: bool) -> int:
    """Keep a run as it is now: every shard, and how far each layer is, in files of the state directory.

    Training goes on meanwhile. The master takes one by itself every cluster.snapshot_seconds, and keeps the
    newest three.
    """
    from deploy.snapshots import list_snapshots, take_snapshot

    return list_snapshots(master, as_json) if listing else take_snapshot(master, as_json)


@click.command()
@_LIVE
@click.option(
    "--to",
    "number",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Of a snapshot (`snapshot --list`); by default the newest that is whole.",
)
@_JSON
def rollback(master: str, number: int | None, as_json: bool) -> int:
    """Put a run back to a snapshot; what was learned since is given up.

    Every slave loses its lease, asks for another by itself, and goes on from there.
    """
    from deploy.snapshots import roll_back

    return roll_back(master, number or 0, as_json)


@click.command()
@click.argument("path", metavar="CONFIG", required=False, type=click.Path(path_type=Path))
@_SET
def config(path: Path | None, overrides: tuple[str, ...]) -> None:
    """Print every key, its default and its meaning, as TOML to edit; of CONFIG or --set, their values."""
    from common.config.files import describe, load

    click.echo(describe(load(path, overrides)), nl=False)
