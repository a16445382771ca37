"""Checks of the network: address families, the master, its clock and versions, and ports both ways."""

from __future__ import annotations

import socket

from common.errors import LayerwiseError, UnprovenError, UnreachableError
from common.net import control
from common.net.addresses import interface_to, is_loopback, split_address
from common.net.callback import Greeter
from common.net.listening import join_address, open_listener
from common.versions import installed_versions, release_numbers
from common.wire.messages import ReachRequest
from common.wire.methods import REACH
from deploy.doctor.findings import Verdict, failed, ok, warning
from deploy.doctor.setup import JOIN_FIX, Contact, Setup

CONNECT_SECONDS = 3.0
REACH_SECONDS = 8.0
# A difference of clocks that disturbs nothing but the reading of logs.
TOLERATED_SECONDS = 1.0
_FAMILIES = (("IPv4", socket.AF_INET, "127.0.0.1"), ("IPv6", socket.AF_INET6, "::1"))


def examine_families(setup: Setup) -> Verdict:  # noqa: ARG001 - every check takes the set-up
    """Check the address families of listening sockets."""
    working = [name for name, family, host in _FAMILIES if _listens(family, host)]
    if not working:
        return failed("no loopback interface in IPv4 or IPv6", "bring it up: ip link set lo up")
    if len(working) < len(_FAMILIES):
        (missing,) = {name for name, *_ in _FAMILIES} - set(working)
        return warning(
            f"{working[0]} alone; {missing} is off",
            f"nothing, if every machine of the cluster has {working[0]}; otherwise turn {missing} on",
        )
    return ok("IPv4 and IPv6")


def _listens(family: socket.AddressFamily, host: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def examine_master(setup: Setup) -> Verdict:
    """Check for an answer from the control port."""
    if setup.contact is None:
        return failed(
            f"{setup.master}: {setup.trouble}",
            "start the master, or check the address, the firewall and the master's --listen",
        )
    trip, over = 2000 * setup.contact.uncertainty, "; its run is over" if setup.contact.reply.over else ""
    return ok(f"{setup.master} answers within {trip:.1f} ms{over}")


def examine_clock(contact: Contact) -> Verdict:
    """Compare the clock with the clock of the master."""
    within = f"{abs(contact.ahead):.3g} s, give or take {contact.uncertainty:.3g} s"
    found = f"{'ahead of' if contact.ahead > 0 else 'behind'} the master's clock by {within}"
    if abs(contact.ahead) - contact.uncertainty > TOLERATED_SECONDS:
        return warning(found, "set the clocks by NTP: logs and events of the two machines do not line up")
    return ok(found)


def examine_versions(contact: Contact) -> Verdict:
    """Compare versions of the project, torch and Python with those of the master."""
    ours, theirs = installed_versions(), contact.reply.versions
    if not theirs:
        return warning("the master does not tell its versions", "install one version on every machine")
    different = {
        name for name in theirs if release_numbers(theirs[name]) != release_numbers(ours.get(name, ""))
    }
    found = ", ".join(
        f"{name} {ours.get(name, 'missing')}" + (f" (master: {theirs[name]})" if name in different else "")
        for name in theirs
    )
    apart = [
        name
        for name in different
        if release_numbers(theirs[name])[:2] != release_numbers(ours.get(name, ""))[:2]
    ]
    fix = f"install the master's version of {' and '.join(sorted(different))} here, or this one there"
    if any(name != "python" for name in apart):
        return failed(found, fix)
    return warning(found, fix) if different else ok(found)


def examine_data_port(contact: Contact, master: str) -> Verdict:
    """Connect to the data port of the master at HOST:PORT.

    Raises:
        ConfigError: the address is not HOST:PORT.
    """
    host, _ = split_address(master)
    address = join_address(host, contact.reply.bulk_port)
    try:
        socket.create_connection((host.strip("[]"), contact.reply.bulk_port), CONNECT_SECONDS).close()
    except OSError as error:
        return failed(
            f"the master's data port {address} cannot be reached: {error.strerror or error}",
            "open that port in the firewall; `master --bulk-port PORT` keeps it the same",
        )
    return ok(f"the master's data port {address} can be reached")


def examine_way_back(setup: Setup) -> Verdict:
    """Have the master connect to a port of the slave-to-be, as neighbours do in profile `basic`.

    Raises:
        ConfigError: no route leads to the master.
        UnreachableError: the master does not answer.
    """
    host = interface_to(setup.master)
    with open_listener(host, 0) as listening, Greeter(listening) as greeter, setup.channel() as channel:
        address = join_address(host, listening.getsockname()[1])
        try:
            request = ReachRequest(address, greeter.token)
            reached = control.call(channel, REACH, request, REACH_SECONDS, setup.shown).reached
        except UnreachableError:
            raise
        except UnprovenError as error:
            return failed(str(error), JOIN_FIX)
        except LayerwiseError as error:
            return warning(f"the master cannot check the way back: {error}", "install one version everywhere")
    if not reached:
        return failed(
            f"the master does not reach this machine at {address}, where neighbours would call",
            "open a port in the firewall and give it: slave --listen HOST:PORT, with --advertise behind NAT; "
            "or start the master with cluster.profile = light",
        )
    note = ", on this machine alone" if is_loopback(host) else ""
    return ok(f"the master reaches this machine at {host}{note}")
