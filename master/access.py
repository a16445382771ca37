"""Admission of callers to the ports of a master or a store, by the table of methods and roles.

Safe for several threads.
"""

from __future__ import annotations

from common.credentials import INCARNATION, SECRET, Credentials, hash_secret, is_secret
from common.errors import ForbiddenError, UnprovenError
from common.net.access import BY_TOKEN, Proof, check_certificate, row_for
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN
from master.leases import Leases, check_secret

_ADVICE = {
    Proof.JOIN: f"give a copy of the master's {JOIN_TOKEN} by --join-token-file",
    Proof.OPERATOR: f"give a copy of the master's {OPERATOR_TOKEN} by --token-file",
}


class Access:
    """Check of each call at the ports, before a message is read.

    Args:
        leases: of the run, read only.
        tokens: of the operator, and of those who may join; None: no method here asks for one.
        run: name of the run, with certificates; None: without certificates.
    """

    def __init__(self, leases: Leases, tokens: tuple[str, str] | None, run: str | None = None) -> None:
        self._leases = leases
        self._tokens = None if tokens is None else (hash_secret(tokens[0]), hash_secret(tokens[1]))
        self._run = run

    def admit(self, path: str, shown: Credentials) -> None:
        """Check that a caller may call a method; every credential that is shown must be right.

        Raises:
            UnprovenError: a secret, a token or the certificate is wrong, or missing.
            UnreachableError: the certificate has ended since the connection was made.
            ForbiddenError: the caller is known, and has no right to the method.
            FencedError: the lease has passed to another slave.
        """
        proof = row_for(path).proof
        if self._run is not None:
            check_certificate(path, shown.certificate, self._run)
        if self._tokens and (shown.token or (self._run is None and proof in BY_TOKEN)):
            self._check_token(path, proof, shown.token, *self._tokens)
        if shown.incarnation:
            check_secret(self._leases, shown.incarnation, shown.secret, shown.holder)
        elif proof is Proof.LEASE:
            raise UnprovenError(
                f"{path}: needs a lease; send {INCARNATION} and {SECRET} of Join's answer with the call"
            )

    def _check_token(self, path: str, proof: Proof, token: str, operator: str, join: str) -> None:
        operates, joins = is_secret(token, operator), is_secret(token, join)
        if not (operates or joins):
            why = "the token is of another run" if token else "no token was shown"
            raise UnprovenError(f"{path}: {why}; {_ADVICE.get(proof, _ADVICE[Proof.OPERATOR])}")
        if proof is Proof.OPERATOR and not operates and self._run is None:
            raise ForbiddenError(f"{path}: the join token is not enough; {_ADVICE[proof]}")
