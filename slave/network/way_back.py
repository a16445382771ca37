"""The way back to a slave (profile `basic`): the master tries the address that neighbours would call."""

from __future__ import annotations

import logging
from collections.abc import Callable

from common.credentials import Credentials
from common.errors import RefusedError, UnprovenError, UnreachableError
from common.net import control
from common.net.addresses import is_loopback, split_address
from common.net.backoff import Backoff
from common.net.channels import Channel
from common.wire.messages import ReachRequest
from common.wire.methods import REACH
from slave.network.options import Options

log = logging.getLogger("layerwise.slave")

# Bound of the master's answer; the master itself gives an attempt up sooner.
REACH_SECONDS = 8.0


class WayBack:
    """Check of a slave's address before the slave asks for a lease.

    Args:
        channel: to the master.
        options: of the slave.
        backoff: for a master that is away.
        shown: returns the right to join.
        pause: waits for seconds, and raises to give the check up.
    """

    def __init__(
        self,
        channel: Channel,
        options: Options,
        backoff: Backoff,
        shown: Callable[[], Credentials],
        pause: Callable[[float], None],
    ) -> None:
        self._channel = channel
        self._options = options
        self._backoff = backoff
        self._shown = shown
        self._pause = pause

    def check(self, address: str, token: str) -> None:
        """Have the master connect to HOST:PORT, where a `Greeter` with the token answers.

        An address that the user has named may be for neighbours alone: there a failure is a warning.

        Raises:
            RefusedError: the master does not reach the address that this slave has found by itself.
            UnreachableError: the master has been away for too long.
            ConfigError: the address is not HOST:PORT.
        """
        if is_loopback(split_address(address)[0]) or self._reached(ReachRequest(address, token)):
            return
        options = self._options
        found = f"the master at {options.master} cannot connect to this slave at {address}"
        if options.advertise is not None:
            log.warning("%s; going on, since --advertise may be for neighbours alone", found)
            return
        raise RefusedError(
            f"{found}, where neighbours would (profile basic): let the firewall pass a port and name it by "
            "--listen HOST:PORT; behind NAT, or where neighbours alone get through, also give --advertise "
            "HOST:PORT; or start the master with cluster.profile = light, in which slaves dial out alone"
        )

    def _reached(self, request: ReachRequest) -> bool:
        while True:
            try:
                reply = control.call_watching(
                    self._channel, REACH, request, REACH_SECONDS, lambda: self._pause(0), self._shown()
                )
            except UnprovenError:
                # Join tells it, or finds the token of a master that has just started.
                return True
            except UnreachableError as error:
                self._pause(self._backoff.delay_after(error))
            else:
                return reply.reached
