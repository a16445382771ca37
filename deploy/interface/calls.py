"""Functions of the Python interface: train, load, compare, simulate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from common.errors import ConfigError
from deploy.engines.placement import HERE
from deploy.interface import values
from deploy.interface.results import Compared, Result, load_result
from deploy.interface.values import Source

Place = Literal["cluster", "driver", "synchronous"]


@values.tell_os_errors()
def train(
    config: Source = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    simulated: bool = False,
    progress: bool = True,
    track: Sequence[str] = (),
    on: str = HERE.on,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    memory: str | None = None,
    **keys: Any,
) -> Result:
    """Train a network to the end of the run, as `layerwise train` does.

    A master and a process for every slave run on this machine, and end with the call. With `on = "ray"` the
    slaves run on the nodes of a Ray cluster, as with `layerwise train --on ray`. With
    `cluster.profile = "synchronous"`, and if simulated, everything runs in this process. `network.model`,
    `data.dataset`, `task.kind` and the option `v` of M take a function of an imported module in place of
    `path/to/file.py:function`: the processes import the file by themselves.

    >>> import layerwise
    >>> keys = {"run.batches": 100, "network.options": {"widths": [32]}}
    >>> result = layerwise.train(progress=False, **{"cluster.profile": "synchronous", **keys})
    >>> result.curves["batches"].tolist()
    [100.0]
    >>> bool(result.curves["error_percent"][-1] < 50)
    True

    Args:
        config: a configuration, or the path of a TOML file; None: the default, handwritten digits.
        run_dir: folder of the results; an unfinished run in it is resumed. None: a new one under runs/.
        simulated: train under a virtual clock on the machines of section [simulation], as
            `layerwise simulate --train`.
        progress: show the progress on the terminal or in the notebook.
        track: trackers of experiments: "tensorboard", "wandb", "mlflow".
        on: engine that places the slaves: "local" or "ray".
        address: of the engine's cluster, HOST:PORT; None: the one of this machine.
        cpus: cores and threads of each slave on Ray; None: 1.
        gpus: GPUs of each slave on Ray; None: 0.
        memory: memory of each slave on Ray, for example "2Gi"; None: none is asked for.
        keys: keys on top of `config`, as `**{"section.key": value}`.

    Raises:
        ConfigError: the configuration, the data, the directory or the engine cannot be used.
        LayerwiseError: the run cannot begin, or cannot end.
        KeyboardInterrupt: interrupted; the processes have been stopped, and the same call with the same
            `run_dir` continues.
    """
    values.refuse_within_import()
    track = values.check_list("track", track)
    placement = values.place(on, address, cpus, gpus, memory)
    if simulated and placement != HERE:
        raise ConfigError(f"on: {on!r} has no processes to place if simulated; omit one of the two")
    requested = values.configure(config, keys) if config is not None or keys else None
    # Imported late, so that a refused configuration is reported at once.
    from deploy.interface.progress import open_no_screen, open_screen
    from deploy.train import Training

    training = Training(
        requested,
        None if run_dir is None else Path(run_dir),
        simulated=simulated,
        track=track,
        placement=placement,
        screen=open_screen if progress else open_no_screen,
    )
    trained = training.run()
    assert trained is not None, "only a signal's handler stops a training"
    if trained.incomplete:
        raise trained.incomplete
    return load_result(trained.path)


def load(run_dir: str | os.PathLike[str]) -> Result:
    """Load the result of a finished run.

    >>> import layerwise
    >>> try:
    ...     layerwise.load("runs/none")
    ... except layerwise.ConfigError as error:
    ...     print(error)
    runs/none/summary.json: is missing; give the directory of a finished run

    Args:
        run_dir: folder of the results.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    return load_result(Path(run_dir))


@values.tell_os_errors()
def compare(
    config: Source = None,
    *,
    over: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | None = None,
    place: Place = "driver",
    jobs: int = 1,
    out: str | os.PathLike[str] | None = None,
    **keys: Any,
) -> Compared:
    """Compare methods on equal terms, each run in a process of its own, as `layerwise compare` does.

    Writes compare.json, plots and a page, compare.html.

    Args:
        config: a configuration, or the path of a TOML file, whose sections [compare.variants."NAME"] count.
        over: for a key "section.key" the values to try; several keys: all combinations.
        seeds: runs of each variant; None: the file's, or 1.
        place: run on real processes (`cluster`), on simulated machines under a virtual clock (`driver`), or
            with all layers in step (`synchronous`).
        jobs: number of runs at a time.
        out: folder of the results; finished runs in it are kept. None: a new one under runs/.
        keys: keys on top of `config`, for all variants, as `**{"section.key": value}`.

    Raises:
        ConfigError: an argument or a variant's configuration is refused, or the comparison has no variants.
        RunFailedError: a run failed; results of finished runs are kept.
    """
    from deploy.comparison import variants
    from deploy.comparison.compare import ComparisonRun

    values.refuse_within_import()
    if place not in get_args(Place):
        raise ConfigError(f"place: {place!r} is not one of {', '.join(get_args(Place))}")
    seeds = None if seeds is None else values.check_count("seeds", seeds)
    jobs = values.check_count("jobs", jobs)
    chosen = values.write_choices(over or {})
    comparison = variants.build(
        values.read_values(config),
        values.find_path(config),
        values.write_overrides(keys),
        chosen,
        seeds,
        place,
    )
    run = ComparisonRun(comparison, place, jobs, None if out is None else Path(out))
    content = run.run()
    assert content is not None, "only a signal's handler stops a comparison"
    return Compared(run.out, content)


@values.tell_os_errors()
def simulate(
    config: Source = None, *, slaves: Sequence[int] = (), measure: bool = False, **keys: Any
) -> list[dict[str, Any]]:
    """Predict throughput, staleness, delay and utilization, without a cluster, as `layerwise simulate` does.

    >>> import layerwise
    >>> few, many = layerwise.simulate(slaves=[2, 12], **{"run.batches": 100})
    >>> many["samples_per_second"] > few["samples_per_second"]
    True

    Args:
        config: a configuration, or the path of a TOML file; None: the default.
        slaves: numbers of slaves; empty: the configured number.
        measure: measure the speed of a slave on this machine for a second, and use it.
        keys: keys on top of `config`, as `**{"section.key": value}`.

    Returns:
        For each number of slaves a dict with `slaves`, `samples_per_second`, `seconds`, `staleness`, `delay`,
        `utilization` by layer and more.

    Raises:
        ConfigError: the run is impossible, at all or with a number of slaves.
    """
    values.refuse_within_import()
    slaves = [values.check_count("slaves", each) for each in values.check_list("slaves", slaves)]
    requested = values.configure(config, keys)
    from deploy.simulation.simulate import predict_all

    return predict_all(requested, slaves, measure)[1]
