"""Registry of checks: a row each, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.registry import Registry, Row
from deploy.doctor import agreement, certificates, computing, contents, machine, network
from deploy.doctor.findings import Verdict
from deploy.doctor.setup import Contact, Setup

# Importing torch takes seconds, and longer where the disk is cold.
TORCH_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True)
class Check(Row):
    """A check.

    Attributes:
        examine: finds the verdict, on any thread.
        applies: whether a set-up gives reason for the check.
        seconds: deadline.
        isolated: whether the check runs in a process of its own, as user code and torch must.
    """

    examine: Callable[[Setup], Verdict]
    applies: Callable[[Setup], bool] = lambda _: True
    seconds: float = 10.0
    isolated: bool = False


def _configured(setup: Setup) -> bool:
    return setup.config is not None


def _asked(setup: Setup) -> bool:
    return setup.contact is not None


def _direct(setup: Setup) -> bool:
    return _asked(setup) and setup.config is not None and setup.config.cluster.direct


def _with_contact(examine: Callable[[Contact], Verdict]) -> Callable[[Setup], Verdict]:
    def examine_contact(setup: Setup) -> Verdict:
        assert setup.contact is not None
        return examine(setup.contact)

    return examine_contact


def _examine_data_port(setup: Setup) -> Verdict:
    assert setup.contact is not None
    return network.examine_data_port(setup.contact, setup.master)


CHECKS = Registry(
    Check(name="python", help="the interpreter", examine=machine.examine_python),
    Check(
        name="packages",
        help="installed packages, against the supported versions",
        examine=machine.examine_packages,
    ),
    Check(
        name="torch",
        help="torch computes, with as many threads as there are cores",
        examine=computing.examine_torch,
        seconds=TORCH_SECONDS,
        isolated=True,
    ),
    Check(
        name="cuda",
        help="GPUs, and the driver against torch's build",
        examine=computing.examine_cuda,
        seconds=TORCH_SECONDS,
        isolated=True,
    ),
    Check(name="cores", help="cores, and a container's quota", examine=machine.examine_cores),
    Check(name="files", help="limit of open files", examine=machine.examine_files),
    Check(name="disk", help="space and rights in the current folder", examine=machine.examine_disk),
    Check(name="addresses", help="IPv4 and IPv6", examine=network.examine_families),
    Check(
        name="certificates",
        help="the certificate of --tls or section [security]",
        examine=certificates.examine_certificates,
        applies=certificates.has_certificates,
    ),
    Check(
        name="master",
        help="the master answers",
        examine=network.examine_master,
        applies=lambda setup: bool(setup.master),
    ),
    Check(
        name="clock",
        help="this clock against the master's, to half a round trip",
        examine=_with_contact(network.examine_clock),
        applies=_asked,
    ),
    Check(
        name="versions",
        help="layerwise, torch and Python against the master's",
        examine=_with_contact(network.examine_versions),
        applies=_asked,
    ),
    Check(name="data port", help="the master's data port", examine=_examine_data_port, applies=_asked),
    Check(
        name="way back",
        help="profile basic: a port of this machine, from the master",
        examine=network.examine_way_back,
        applies=_direct,
        seconds=15.0,
    ),
    Check(
        name="configuration",
        help="every key of the configuration",
        examine=contents.examine_configuration,
        # A master that cannot be asked is a finding of its own.
        applies=lambda setup: not setup.master or _asked(setup),
    ),
    Check(name="names", help="files named as modules", examine=contents.examine_names),
    Check(
        name="user files",
        help="the user's functions can be loaded",
        examine=contents.examine_user_code,
        applies=lambda setup: bool(contents.user_functions(setup.config)),
        seconds=TORCH_SECONDS,
        isolated=True,
    ),
    Check(
        name="data",
        help="the data are here and can be read",
        examine=contents.examine_data,
        applies=_configured,
        seconds=TORCH_SECONDS,
        isolated=True,
    ),
    Check(
        name="agreement",
        help="data, user files and versions of the run",
        examine=agreement.examine_agreement,
        applies=lambda setup: _asked(setup) and _configured(setup),
        seconds=TORCH_SECONDS,
        isolated=True,
    ),
    Check(
        name="network",
        help="the network is built and cut",
        examine=contents.examine_network,
        applies=_configured,
        seconds=TORCH_SECONDS,
        isolated=True,
    ),
)
