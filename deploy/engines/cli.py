"""`layerwise manifest`."""

from __future__ import annotations

from pathlib import Path

import click

from common.config.options import PLACE, cluster_tls_option, config_argument, run_dir_option, set_option
from common.errors import ConfigError
from common.text import answer

_GPUS = click.option(
    "--gpus",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="GPUs of each slave.",
)
_CPUS = click.option(
    "--cpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="CPU cores of each slave, and its threads.",
)


@click.group()
def manifest() -> None:
    """Print what a scheduler of a cluster takes to place a run: its master, its slaves, its evaluator.

    The run's configuration is a part of what is printed. The scheduler starts processes and restarts them;
    layerwise asks nothing of it at a run.
    """


@manifest.command()
@config_argument
@set_option
@click.option(
    "--time",
    default="1:00:00",
    show_default=True,
    metavar="TIME",
    help="Time limit of a job, as sbatch takes it; a run that takes longer goes on when the job is requeued.",
)
@click.option("--partition", metavar="NAME", help="Partition of the nodes. Default: Slurm's.")
@_CPUS
@_GPUS
@run_dir_option(
    "Folder of the run, which all nodes see; an unfinished run in it is resumed. Default: runs/NAME-JOB, "
    "where the job is submitted."
)
@cluster_tls_option(", which all nodes see. Default: the job makes one.")
@click.option("--insecure", is_flag=True, help="Let the processes talk in the clear.")
def slurm(
    config: Path,
    overrides: tuple[str, ...],
    time: str,
    partition: str | None,
    cpus: int,
    gpus: int,
    run_dir: Path | None,
    tls: Path | None,
    insecure: bool,
) -> None:
    """Print a script for sbatch: a job with the master on one node, and the slaves as tasks on others.

    Shortly before the time limit the run stops and the job is requeued; the run goes on from there, also
    after a node has failed. The job ends with the run, with its result files in the run's folder.
    """
    from deploy.engines.planning import make_plan
    from deploy.engines.slurm import Wishes, render

    if insecure and tls is not None:
        raise ConfigError("manifest slurm: give either --tls or --insecure")
    wishes = Wishes(time, partition, cpus, gpus, run_dir, tls, insecure)
    for line in render(make_plan(config, overrides), wishes).splitlines():
        answer(line)


@manifest.command()
@config_argument
@set_option
@click.option("--name", metavar="NAME", help="Name of the objects. Default: run.name.")
@click.option(
    "--image",
    default="layerwise:local",
    show_default=True,
    metavar="IMAGE",
    help="Image of every process, built by the project's Dockerfile.",
)
@_CPUS
@_GPUS
@click.option("--memory", default="2Gi", show_default=True, metavar="SIZE", help="Memory of each process.")
@click.option(
    "--storage",
    default="10Gi",
    show_default=True,
    metavar="SIZE",
    help="Size of each claim: for the master's state, and for the result files.",
)
@click.option(
    "--data-claim",
    metavar="NAME",
    help="Claim that has, at its top, the folder or file that data.path names.",
)
@cluster_tls_option("; its keys are printed as secrets. Default: cert-manager makes certificates.")
@click.option(
    "--monitoring",
    metavar="NAMESPACE",
    help="Namespace of Prometheus and its operator, which then read the pages. Default: nobody does.",
)
@click.option(
    "--kustomize",
    type=PLACE,
    metavar="DIR",
    help="Write a base for kustomize into a new folder, and print the names of its files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of the API as JSON in place of YAML.")
def kubernetes(
    config: Path,
    overrides: tuple[str, ...],
    name: str | None,
    image: str,
    cpus: int,
    gpus: int,
    memory: str,
    storage: str,
    data_claim: str | None,
    tls: Path | None,
    monitoring: str | None,
    kustomize: Path | None,
    as_json: bool,
) -> None:
    """Print objects for kubectl: the master with a claim, a job of slaves, the evaluator, and their network.

    The processes speak TLS with each other. The run ends when its job of the evaluator does; the master stays
    until the objects are deleted.
    """
    from deploy.engines.kubernetes.names import Order, Wishes
    from deploy.engines.kubernetes.objects import build_objects, render_json, render_yaml, write_base
    from deploy.engines.planning import make_plan

    if as_json and kustomize is not None:
        raise ConfigError("manifest kubernetes: give either --kustomize or --json")
    wishes = Wishes(name, image, cpus, gpus, memory, storage, data_claim, tls, monitoring)
    objects = build_objects(Order(make_plan(config, overrides), wishes))
    if kustomize is not None:
        for path in write_base(objects, kustomize):
            answer(str(path))
        return
    for line in (render_json if as_json else render_yaml)(objects).splitlines():
        answer(line)
