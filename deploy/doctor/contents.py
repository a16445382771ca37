"""Checks of contributions of the user: configuration, network, data, files of code.

User code and torch run in processes of their own.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.config.data import DATASETS
from common.config.sections import Config
from common.config.user_code import load_user_function
from common.data import datasets, downloads, sets
from common.data.holdings import digest_data
from common.errors import ConfigError
from common.registry import import_implementation
from common.versions import lowest_versions
from deploy.doctor.findings import Verdict, failed, ok, warning
from deploy.doctor.setup import Setup

OURS = ("common", "master", "slave", "deploy", "protos")
_FIX = "correct the configuration, or the file that it names"


def examine_configuration(setup: Setup) -> Verdict:
    """Check the configuration."""
    if setup.config is None:
        return failed(str(setup.trouble), "`layerwise config` prints every key with its meaning")
    config, whence = setup.config, f" from {setup.master}" if setup.master else ""
    return ok(f"{config.run.name}{whence}: {config.data.dataset}, profile {config.cluster.profile}")


def user_functions(config: Config | None) -> dict[str, str]:
    """Return the user functions in a configuration, by key."""
    return config.user_functions if config else {}


def examine_user_code(setup: Setup) -> Verdict:
    """Load the functions of the user."""
    specs = user_functions(setup.config)
    try:
        for spec in specs.values():
            load_user_function(spec, setup.code)
    except ConfigError as error:
        return failed(str(error), _FIX)
    return ok(", ".join(specs.values()))


def examine_names(setup: Setup) -> Verdict:
    """Check for files with names of modules: of Python, the project or its packages."""
    folders = {Path.cwd(), *({setup.code} if setup.code else ())}
    folders |= {
        Path(spec.rpartition(":")[0]).absolute().parent for spec in user_functions(setup.config).values()
    }
    taken = {*sys.stdlib_module_names, *OURS, *(name.replace("-", "_") for name in lowest_versions())}
    files = sorted(path for folder in folders for path in folder.glob("*.py") if path.stem in taken)
    if files:
        return warning(
            f"{', '.join(map(str, files))}: named as a module of Python, of this project or of a package",
            "rename: an import of the name finds one of the two, and programs of this folder may break",
        )
    return ok("no file is named as another module")


def examine_data(setup: Setup) -> Verdict:
    """Load the data, without a download."""
    assert setup.config is not None
    data = setup.config.data
    if data.path is None and setup.data is None and (lacking := _lacking(data.dataset)):
        return warning(
            f"{data.dataset} is not on this machine yet: {', '.join(lacking)}",
            "nothing, if this machine may download; else give the folder as data.path or --data",
        )
    try:
        dataset = datasets.of(setup.config, path=setup.data, code=setup.code)
        dataset.check_fit(setup.config)
    except ConfigError as error:
        return failed(str(error), "give the folder of the files as data.path or --data, or correct the data")
    digest = hashlib.blake2b(repr(digest_data(dataset)).encode(), digest_size=8).hexdigest()
    count = (
        "streams" if setup.config.curriculum else f"{len(dataset.train):,} and {len(dataset.test):,} examples"
    )
    found = f"{count} of {dataset.inputs.describe_example()} {dataset.targets.describe()}"
    return ok(f"{found}, digest {digest}")


def _lacking(name: str) -> list[str]:
    """List missing files of a published data set in the cache of the user."""
    if name not in DATASETS:
        return []
    published: Any = getattr(import_implementation(sets.__name__, name), "PUBLISHED", None)
    return list(published.missing(downloads.cache(name))) if published else []


def examine_network(setup: Setup) -> Verdict:
    """Build the network, cut it into layers, and rehearse the first steps of every unit."""
    from common.models import network
    from common.models.rehearsal import rehearse

    assert setup.config is not None
    if examine_data(setup).state != "ok":
        return warning("not checked, since the network depends on the data", "see the check of the data")
    dataset = datasets.of(setup.config, path=setup.data, code=setup.code)
    try:
        blueprint = network.build(setup.config, dataset.inputs, dataset.targets, setup.code)
        config = network.cut(setup.config, blueprint)
        rehearse(config, dataset, LARGEST_SIGNAL_MESSAGE_BYTES, setup.code)
    except ConfigError as error:
        return failed(str(error), _FIX)
    return ok(f"{config.network.model} in {config.layers} layers; each unit takes a step")
