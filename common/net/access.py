"""Access of callers to methods: one table of methods and roles, for every port."""

from __future__ import annotations

from enum import Enum
from typing import Any

from common.wire import methods
from common.wire.methods import METHODS, Method


class Role(Enum):
    """Role of a caller, proved by what its call shows.

    Attributes:
        READER: any caller.
        JOINER: process that may become a slave, by the join token or the operator's.
        SLAVE: holder of a lease, by the lease's secret.
        OPERATOR: who may change the run, by the operator's token.
    """

    READER = "reader"
    JOINER = "joiner"
    SLAVE = "slave"
    OPERATOR = "operator"


# Roles that a token proves.
BY_TOKEN = (Role.JOINER, Role.OPERATOR)

ACCESS: dict[Method[Any, Any], Role] = {
    methods.DESCRIBE: Role.READER,
    methods.JOIN: Role.JOINER,
    methods.HEARTBEAT: Role.SLAVE,
    methods.LEAVE: Role.SLAVE,
    methods.STATUS: Role.READER,
    methods.REPORT: Role.OPERATOR,
    methods.REACH: Role.JOINER,
    methods.AGREE: Role.JOINER,
    methods.SNAPSHOT: Role.OPERATOR,
    methods.SNAPSHOTS: Role.READER,
    methods.ROLLBACK: Role.OPERATOR,
    methods.PUSH: Role.SLAVE,
    methods.PULL: Role.READER,
    methods.EXCHANGE: Role.SLAVE,
    methods.SYNTHESIZE: Role.SLAVE,
}
_ROLES = {method.path: role for method, role in ACCESS.items()}

if missing := [method.path for method in METHODS if method not in ACCESS]:
    raise AssertionError(f"ACCESS has no row for {missing}")


def role_for(path: str) -> Role:
    """Return the role that a method asks for."""
    return _ROLES[path]
