"""`layerwise analyze`: measure the networks of runs; write analysis.json, plots and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import strict_json
from common.errors import ConfigError
from common.output import divert_output
from common.text import answer, say
from deploy.analysis.measures import Measured, measure
from deploy.analysis.subjects import Run, read_runs
from deploy.analysis.telemetry import read_synthesis
from deploy.pages.page import ANALYSIS_PAGE
from deploy.runs.directory import new_directory
from deploy.runs.files import lock_folder, write_file

RESULT, PLOTS = "analysis.json", "plots"


def analyze(
    paths: Sequence[Path], out: Path | None, data: Path | None, code: Path | None, *, as_json: bool
) -> int:
    """Analyze runs, write the results, and return the exit code.

    Of one run every network is measured, of several runs the last network of each.

    Args:
        paths: run directories.
        out: folder for the results; None for a new one.
        data: folder that replaces `data.path`.
        code: folder of the user's files.
        as_json: print analysis.json, and nothing else, on standard output.

    Raises:
        LayerwiseError: a directory holds no run or no network, or the data is missing.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("analyze: a run directory is given twice; give each once")
    with divert_output():
        runs = read_runs(paths, data, code)
        out = out or new_directory(f"analyze-{runs[0].config.run.name}")
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out, "--out"):
            result = write(out, runs)
    if as_json:
        answer(strict_json.encode(result))
    else:
        answer(f"results in {out}: {ANALYSIS_PAGE}, {RESULT}, {PLOTS}/")
    return 0


def write(out: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Measure the networks, write all files into a folder, and return the content of analysis.json."""
    from deploy.analysis.figures import plots
    from deploy.analysis.page import page
    from deploy.pages.figures import draw

    over_time = len(runs) == 1
    measured = [each for place, run in enumerate(runs) for each in _measure(run, place, over_time=over_time)]
    synthesis = {run.name: read_synthesis(run.path) for run in runs}
    result = {
        "runs": [_describe(run, synthesis[run.name]) for run in runs],
        "networks": [each.to_json() for each in measured],
        "left_out": [
            {"network": each.title, "reason": reason} for each in measured for reason in each.omitted
        ],
    }
    write_file(out / RESULT, (strict_json.encode(result, indent=1) + "\n").encode())
    write_file(out / ANALYSIS_PAGE, page(measured, draw(out / PLOTS, plots(measured, synthesis))).encode())
    return result


def _measure(run: Run, place: int, *, over_time: bool) -> list[Measured]:
    """Measure the networks of a run, or the last one alone; `place` is that of the first."""
    measured: list[Measured] = []
    earlier = None
    # The change of the weights needs the network before.
    points = run.points if over_time else run.points[-2:]
    for point in points:
        subject = run.open(point)
        last = point is points[-1]
        if over_time or last:
            say(f"measuring {run.path / point.model}, batch {point.batch}")
            title = f"batch {point.batch}" if over_time else run.name
            # Surfaces over time would fill a page of their own.
            measured.append(measure(subject, title, place + len(measured), earlier, surfaces=last))
        earlier = subject
    return measured


def _describe(run: Run, synthesis: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    config = run.config
    return {
        "name": run.name,
        "path": str(run.path),
        "dataset": config.data.dataset,
        "model": config.network.model,
        "task": config.task.kind,
        "profile": config.cluster.profile,
        "unlock": config.decoupling.unlock,
        "gradient": config.decoupling.gradient if config.decoupling.row.synthesizes else None,
        "units": len(run.blueprint.units),
        "cuts": run.cuts,
        "batches": config.run.batches,
        "kept": [point.batch for point in run.points],
        "synthesis": {str(k): rows for k, rows in synthesis.items()},
    }
