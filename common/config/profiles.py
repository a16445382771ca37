"""Registries of the cluster's choices: profiles, places of M and I, precisions of wire and computing.

The rounding of a wire precision is in `common.wire.precision`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.registry import Registry, Row


@dataclass(frozen=True, kw_only=True)
class ProfileRow(Row):
    """Profile: connections among slaves and master.

    Attributes:
        distributed: whether a master and slaves take part; else every layer runs in one process.
        direct: whether neighbours call each other, so that slaves listen.
    """

    distributed: bool = True
    direct: bool = False


# Keys without a meaning where no process sends messages.
_DISTRIBUTED = ("synthesis", "wire", "compile", "stores", "downpour.")

PROFILES = Registry(
    ProfileRow(name="light", help="a slave knows only the master", heeds=_DISTRIBUTED),
    ProfileRow(name="basic", help="neighbours call each other directly", heeds=_DISTRIBUTED, direct=True),
    ProfileRow(name="synchronous", help="no cluster, every layer in one process in step", distributed=False),
)


@dataclass(frozen=True, kw_only=True)
class SynthesisRow(Row):
    """A place where M and I run.

    Attributes:
        served: whether M and I run in the master.
    """

    served: bool


SYNTHESES = Registry(
    SynthesisRow(name="slave", help="in the slaves", heeds=("wire", "stores"), served=False),
    # Most messages then go to the master, as float32: a narrow wire would save little.
    SynthesisRow(name="master", help="in the master, which slaves ask", served=True),
)

WIRES = Registry(
    Row(name="float32", help="unchanged"),
    Row(name="bfloat16", help="half the bytes, the range of float32"),
    Row(name="float16", help="half the bytes, scaled by tensor"),
    Row(name="int8", help="a quarter of the bytes, scaled by example"),
)


@dataclass(frozen=True, kw_only=True)
class AutocastRow(Row):
    """Precision of a layer's computing; parameters, shards and messages do not change.

    Attributes:
        dtype: name of the torch dtype that matrix products take; empty: float32.
    """

    dtype: str


AUTOCASTS = Registry(
    AutocastRow(name="none", help="float32", dtype=""),
    AutocastRow(name="bfloat16", help="matrix products of layers in bfloat16", dtype="bfloat16"),
)
