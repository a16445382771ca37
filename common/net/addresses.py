"""Addresses HOST:PORT: parsing, limits on listening, and the address by which peers reach a listener."""

from __future__ import annotations

import ipaddress
import socket

from common.errors import ConfigError, RefusedError, UnreachableError


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        ConfigError: the address is not HOST:PORT.
    """
    host, colon, port = address.rpartition(":")
    numbered = port.isascii() and port.isdecimal() and int(port) <= 65535
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"{address}: an address of IPv6 stands in brackets, for example [fd00::1]:50051")
    if not colon or not numbered or not _is_host(host):
        raise ConfigError(f"{address}: is no address; expected HOST:PORT, for example 127.0.0.1:50051")
    return host, int(port)


def check_link(address: str, option: str = "") -> None:
    """Refuse an address of IPv6 that holds on one link alone, under a name of the machine's own.

    Raises:
        ConfigError: the host of HOST:PORT is link-local, or the address is malformed.
    """
    host, _ = split_address(address)
    try:
        linked = ipaddress.IPv6Address(host.strip("[]")).is_link_local
    except ValueError:
        return
    if linked:
        raise ConfigError(
            f"{option} {address}: is link-local: it holds on one link, and each machine has another name for "
            "the link (behind %); use an address of the whole network, such as one in fd00::/8, or a name "
            "that stands for one".lstrip()
        )


def _is_host(text: str) -> bool:
    """Whether the system can be asked for a host: sockets raise other errors than OSError for the rest."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return bool(text) and text.isprintable()


def no_master(master: str, seconds: float) -> UnreachableError:
    """Build the error of a process that has waited so long for a master at HOST:PORT."""
    return UnreachableError(
        f"--master {master}: no master answered for {seconds:g} s; start one there with `layerwise master`, "
        "or check the address and the firewall"
    )


def cannot_listen(option: str, host: str, port: int, reason: str | None = None) -> RefusedError:
    """Build the error for an address, named by a command-line option, on which listening failed."""
    # Python adds the address to the system's reason.
    why = f" ({reason.partition(' (while')[0]})" if reason else ""
    if port == 0:
        causes = f"{host} is no address of this machine; give one that `ip address` lists"
    else:
        causes = (
            f"port {port} is taken, or {host} is no address of this machine; choose another port, or stop "
            "the program that has it"
        )
    return RefusedError(f"{option} {host}:{port}: cannot be listened on{why}: {causes}")


def loopback_host() -> str:
    """Return the host by which processes of this machine reach each other: of IPv4 where there is any."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError:
        return "[::1]"
    return "127.0.0.1"


def on_loopback(port: int) -> str:
    """Return the HOST:PORT of a port on the loopback address."""
    return f"{loopback_host()}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_listen(address: str, insecure: bool, option: str = "--listen") -> None:
    """Refuse to listen in the clear beyond this machine without --insecure.

    Raises:
        ConfigError: the host is not loopback and `insecure` is false, or it is link-local.
    """
    check_link(address, option)
    host, _ = split_address(address)
    if not insecure and not is_loopback(host):
        raise ConfigError(
            f"{option} {address}: anyone who reaches this address could read and change the run; "
            "give certificates by --tls DIR, or say --insecure if the network is yours alone"
        )


def reachable_address(listen: str, peer: str | None) -> str:
    """Return the HOST:PORT by which a peer and the peer's network reach a listener.

    Args:
        listen: HOST:PORT of the listener; an unspecified host (0.0.0.0, [::]) stands for every interface.
        peer: HOST:PORT; the interface that routes to the peer replaces an unspecified host. None: this
            machine's name does.

    Raises:
        ConfigError: an address is malformed, or no route leads to the peer.
    """
    host, port = split_address(listen)
    if is_unspecified(host):
        host = interface_to(peer) if peer else socket.gethostname()
    return f"{host}:{port}"


def reachable_metrics(listen: str, master: str) -> str:
    """Return the address of a process' pages for the master's list of scrape targets.

    Args:
        listen: HOST:PORT at which the process listens for visitors.
        master: HOST:PORT.

    Raises:
        ConfigError: `listen` is not HOST:PORT.
    """
    try:
        address = reachable_address(listen, master)
    except ConfigError:
        # The master's name may resolve once the master is up.
        return reachable_address(listen, None)
    # The loopback address of the way to a master on this machine would mislead other machines. The master
    # puts in the address at which a visitor reaches this machine.
    return listen if is_loopback(split_address(address)[0]) else address


def choose_addresses(
    listen: str | None, advertise: str | None, master: str, *, insecure: bool
) -> tuple[str, str]:
    """Choose where a process of a run listens, and the HOST:PORT by which peers reach it.

    Args:
        listen: HOST:PORT; None: a free port of the interface that reaches the master.
        advertise: HOST:PORT for peers, where port 0 stands for the port taken; None: as `listen`.
        master: HOST:PORT.
        insecure: whether other machines may reach the port in the clear, or there are certificates.

    Raises:
        ConfigError: an address is malformed, unreachable, or open to other machines.
    """
    listen = listen or f"{interface_to(master)}:0"
    check_listen(listen, insecure)
    if advertise:
        check_link(advertise, "--advertise")
        if is_unspecified(split_address(advertise)[0]):
            raise ConfigError(
                f"--advertise {advertise}: nobody can reach it; give a name or address of this machine"
            )
    return listen, reachable_address(advertise or listen, master)


def interface_to(peer: str) -> str:
    """Return the host part of this machine's interface that routes to a peer.

    Raises:
        ConfigError: no route leads to the peer.
    """
    host, port = split_address(peer)
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket looks up the route and sends nothing.
            probe.connect(address)
            interface = str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"{peer}: {error.strerror}; check the address and the network") from None
    return f"[{interface}]" if family == socket.AF_INET6 else interface


def advice(host: str) -> str:
    """Return what to do about a port of another process at which nobody answers."""
    if is_loopback(host):
        return (
            f"{host} leads to this machine alone: a process on another one needs --advertise, or the "
            "master's address in the network as its --master"
        )
    return "is the port open between the two machines?"


def is_unspecified(host: str) -> bool:
    """Whether a host stands for every interface of this machine (0.0.0.0, [::])."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
