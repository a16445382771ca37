"""Admission to a master's ports: callers by the table of methods and roles. Safe for several threads."""

from __future__ import annotations

from common.credentials import INCARNATION, SECRET, Credentials, hash_secret, is_secret
from common.errors import ForbiddenError, UnprovenError
from common.net.access import BY_TOKEN, Role, role_for
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN
from master.roster import Roster

_ADVICE = {
    Role.JOINER: f"give a copy of the master's {JOIN_TOKEN} by --join-token-file",
    Role.OPERATOR: f"give a copy of the master's {OPERATOR_TOKEN} by --token-file",
}


class Access:
    """Check of each call at a master's ports, before a message is read.

    Args:
        roster: leases, read only.
        operator: token of the operator.
        join: token of those who may join.
    """

    def __init__(self, roster: Roster, operator: str, join: str) -> None:
        self._roster = roster
        self._operator, self._join = hash_secret(operator), hash_secret(join)

    def admit(self, path: str, shown: Credentials) -> None:
        """Check that a caller has the role for a method; every credential that is shown must be right.

        Raises:
            UnprovenError: a secret or token is wrong, or missing.
            ForbiddenError: the caller is known, and has no right to the method.
            FencedError: the lease has passed to another slave.
        """
        role = role_for(path)
        if shown.token or role in BY_TOKEN:
            self._check_token(path, role, shown.token)
        if shown.incarnation:
            self._roster.check_secret(shown.incarnation, shown.secret)
        elif role is Role.SLAVE:
            raise UnprovenError(
                f"{path}: needs a lease; send {INCARNATION} and {SECRET} of Join's answer with the call"
            )

    def _check_token(self, path: str, role: Role, token: str) -> None:
        operates, joins = is_secret(token, self._operator), is_secret(token, self._join)
        if not (operates or joins):
            why = "the token is of another run" if token else "no token was shown"
            raise UnprovenError(f"{path}: {why}; {_ADVICE.get(role, _ADVICE[Role.OPERATOR])}")
        if role is Role.OPERATOR and not operates:
            raise ForbiddenError(f"{path}: the join token is not enough; {_ADVICE[role]}")
