"""Admission to a master's ports: callers by the table of methods and roles. Safe for several threads."""

from __future__ import annotations

from common.credentials import INCARNATION, SECRET, Credentials
from common.errors import UnprovenError
from common.net.access import Role, role_for
from master.roster import Roster


class Access:
    """Check of each call at a master's ports, before a message is read.

    Args:
        roster: leases, read only.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def admit(self, path: str, shown: Credentials) -> None:
        """Check that a caller has the role for a method; every credential that is shown must be right.

        Raises:
            UnprovenError: a secret is wrong, or missing.
            FencedError: the lease has passed to another slave.
        """
        role = role_for(path)
        if shown.incarnation:
            self._roster.check_secret(shown.incarnation, shown.secret)
        elif role is Role.SLAVE:
            raise UnprovenError(
                f"{path}: needs a lease; send {INCARNATION} and {SECRET} of Join's answer with the call"
            )
