"""Command of another slave of a run, for people."""

from __future__ import annotations

from common.config.sections import Config
from common.net.addresses import is_loopback, split_address


def slave_command(config: Config, master: str, *, secure: bool) -> str:
    """Return the command of another slave.

    FILE or DIR stands in place of the proof that it may join, and CODE for the folder of the user's files.

    Args:
        config: the run's configuration.
        master: the master's address; on loopback a slave of the same user finds the token by itself.
        secure: the master speaks TLS.

    Raises:
        ConfigError: the address is not HOST:PORT.
    """
    words = ["layerwise", "slave", "--master", master]
    if secure:
        words += ["--tls", "DIR"]
    elif not is_loopback(split_address(master)[0]):
        words += ["--join-token-file", "FILE", *(["--insecure"] if config.cluster.direct else [])]
    if config.user_functions:
        words += ["--code", "CODE"]
    return " ".join(words)
