"""Access of callers to methods: one table of methods, proofs and roles, for every port."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote

from common.credentials import Certificate
from common.errors import ForbiddenError, UnprovenError, UnreachableError
from common.wire import methods
from common.wire.methods import METHODS, Method


class Role(Enum):
    """Role of a certificate's holder, in a name of the certificate (see `role_uri`)."""

    MASTER = "master"
    SLAVE = "slave"
    STORE = "store"
    EVALUATOR = "evaluator"
    OPERATOR = "operator"
    READER = "reader"


class Proof(Enum):
    """Proof that a method asks for.

    Attributes:
        NONE: none.
        JOIN: without certificates, the join token or the operator's.
        OPERATOR: without certificates, the operator's token.
        LEASE: the secret of a lease.
    """

    NONE = "none"
    JOIN = "join token"
    OPERATOR = "operator token"
    LEASE = "lease"


# Proofs that are tokens. With certificates the roles stand for them.
BY_TOKEN = (Proof.JOIN, Proof.OPERATOR)


@dataclass(frozen=True)
class Row:
    """Callers of a method.

    Attributes:
        proof: what a call shows, beside a certificate.
        roles: with certificates, roles of which the caller has one.
    """

    proof: Proof
    roles: frozenset[Role]


_ALL = frozenset(Role) - {Role.MASTER}
_SLAVE = frozenset({Role.SLAVE})
_OPERATOR = frozenset({Role.OPERATOR})

ACCESS: dict[Method[Any, Any], Row] = {
    methods.DESCRIBE: Row(Proof.NONE, _ALL),
    methods.JOIN: Row(Proof.JOIN, _SLAVE),
    methods.HEARTBEAT: Row(Proof.LEASE, _SLAVE),
    methods.LEAVE: Row(Proof.LEASE, _SLAVE),
    methods.STATUS: Row(Proof.NONE, _ALL),
    methods.REPORT: Row(Proof.OPERATOR, frozenset({Role.EVALUATOR, Role.OPERATOR})),
    methods.REACH: Row(Proof.JOIN, frozenset({Role.SLAVE, Role.OPERATOR})),
    methods.AGREE: Row(Proof.JOIN, frozenset({Role.SLAVE, Role.EVALUATOR, Role.OPERATOR})),
    methods.RESIZE: Row(Proof.OPERATOR, _OPERATOR),
    methods.SNAPSHOT: Row(Proof.OPERATOR, _OPERATOR),
    methods.SNAPSHOTS: Row(Proof.NONE, _ALL),
    methods.ROLLBACK: Row(Proof.OPERATOR, _OPERATOR),
    methods.PUSH: Row(Proof.LEASE, _SLAVE),
    methods.PULL: Row(Proof.NONE, _ALL),
    methods.EXCHANGE: Row(Proof.LEASE, _SLAVE),
    methods.SYNTHESIZE: Row(Proof.LEASE, _SLAVE),
    methods.ATTEND: Row(Proof.JOIN, frozenset({Role.STORE})),
    methods.LOCATE: Row(Proof.NONE, _ALL),
    methods.PLACE: Row(Proof.LEASE, _SLAVE),
}
_ROWS = {method.path: row for method, row in ACCESS.items()}

if missing := [method.path for method in METHODS if method not in ACCESS]:
    raise AssertionError(f"ACCESS has no row for {missing}")

_SCHEME = "layerwise"


def row_for(path: str) -> Row:
    """Return the row of a method."""
    return _ROWS[path]


def role_uri(role: Role, run: str | None = None) -> str:
    """Return the name that gives a certificate a role: in every run, or in the runs of a name alone."""
    return f"{_SCHEME}:{role.value}" + (f":{quote(run, safe='')}" if run is not None else "")


def roles_of(certificate: Certificate, run: str | None) -> frozenset[Role]:
    """Return the roles that a certificate gives in a run; None: in any run."""
    return frozenset(role for role in Role if any(_gives(uri, role, run) for uri in certificate.uris))


def _gives(uri: str, role: Role, run: str | None) -> bool:
    scheme, _, rest = uri.partition(":")
    name, restricted, named = rest.partition(":")
    return (scheme, name) == (_SCHEME, role.value) and (not restricted or run in (None, unquote(named)))


def check_certificate(path: str, certificate: Certificate | None, run: str | None) -> None:
    """Check that a caller's certificate gives the right to call a method of a run; None: of any run.

    Raises:
        UnprovenError: the caller has shown no certificate.
        UnreachableError: the certificate has ended since its session was made.
        ForbiddenError: the certificate has no role for the method.
    """
    if certificate is None:
        raise UnprovenError(f"{path}: no certificate was shown; give the folder of one by --tls DIR")
    if certificate.ends < time.time():
        # Another connection shows a renewed one, or is refused; a resumed session is not.
        raise UnreachableError(f"{path}: the certificate of {certificate.holder} has ended; connect anew")
    wanted, found = row_for(path).roles, roles_of(certificate, run)
    if not wanted & found:
        raise ForbiddenError(
            f"{path}: the certificate of {certificate.holder} has {_names(found, 'the role')} here; "
            f"show one with {_names(wanted, 'the role')} (a name {role_uri(min(wanted, key=_order))})"
        )


def _names(roles: frozenset[Role], word: str) -> str:
    if not roles:
        return "no role"
    return f"{word} {' or '.join(role.value for role in sorted(roles, key=_order))}"


def _order(role: Role) -> int:
    return list(Role).index(role)
