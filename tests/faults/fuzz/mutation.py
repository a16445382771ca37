"""Mutation of what a peer sends: bytes, messages, pushes of frames, and frames of HTTP/2."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from common.errors import LayerwiseError
from common.net.http2 import frames as http2
from common.net.http2.frames import Kind
from common.shards.pushes import Frame, Header, Operation
from common.shards.table import Table
from common.wire.payloads import decode_frame, encode_frame

# Numbers at the edges of what fields hold.
EDGES = (0, 1, 2, 2**31, 2**63, 2**64 - 1)


class Mutator:
    """Changes lists of frames or messages, and the bytes of one."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def change(self, frames: list[bytes]) -> list[bytes]:
        """Return a list with one change: of its order, or of the bytes of an entry; never empty."""
        rng, frames = self.rng, list(frames)
        at = rng.randrange(len(frames))
        what = rng.randrange(9)
        if what == 0:
            del frames[at]
        elif what == 1:
            frames.insert(rng.randrange(len(frames) + 1), frames[at])
        elif what == 2:
            rng.shuffle(frames)
        elif what == 3:
            frames[at] += frames[rng.randrange(len(frames))]
        elif what == 4:
            frames[at] = frames[at][: rng.randrange(len(frames[at]) + 1)]
        else:
            frames[at] = self.garble(frames[at])
        return frames or [b""]

    def garble(self, encoded: bytes) -> bytes:
        """Return bytes with one to four of them changed, left out or added."""
        rng, changed = self.rng, bytearray(encoded)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(changed) + 1)
            what = rng.randrange(3)
            if what == 0:
                changed[at : at + 1] = rng.randbytes(1)
            elif what == 1:
                del changed[at : at + rng.randint(1, 8)]
            else:
                changed[at:at] = rng.choice((b"\xff" * 9, rng.randbytes(rng.randint(1, 8)), bytes(4)))
        return bytes(changed)

    def connection(self, frames: list[bytes], numbers: int = 0) -> list[bytes]:
        """Return frames of HTTP/2 with changes, and with frames that a peer may send at any time.

        Args:
            frames: of a connection.
            numbers: bytes at the end of each longer frame that stay: other numbers are no fault.
        """
        rng, frames = self.rng, list(frames)
        for _ in range(rng.randint(1, 6)):
            frames.insert(rng.randrange(len(frames) + 1), self._any_frame())
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = rng.randrange(len(frames))
            head = len(frames[at]) - numbers if len(frames[at]) > numbers else len(frames[at])
            change = self.garble if rng.random() < 0.5 else self._head
            frames[at] = change(frames[at][:head]) + frames[at][head:]
        return frames

    def _any_frame(self) -> bytes:
        rng = self.rng
        kind = rng.choice([*Kind, 77])
        payload = rng.choice((b"", bytes(8), rng.randbytes(rng.randint(0, 40)), bytes(5), b"\0\x04\0\0\0\0"))
        stream = rng.choice((0, 1, 1, 3, 2, 2**31 - 1))
        head = http2.frame_head(Kind.DATA, rng.choice((0, 0, 1, 4, 5, 8, 0x20, 255)), stream, len(payload))
        return head[:3] + bytes((kind,)) + head[4:] + payload

    def _head(self, frame: bytes) -> bytes:
        """Return a frame with another length, kind, flags or stream in its head."""
        rng, changed = self.rng, bytearray(frame)
        if changed:
            changed[rng.randrange(min(len(changed), http2.HEAD_BYTES))] = rng.choice((0, 1, 5, 9, 255))
        return bytes(changed)


def pushed(header: Header, data: bytes, cuts: list[int]) -> list[bytes]:
    """Return a push as frames, encoded."""
    edges = [0, *cuts, len(data)]
    pieces = [(start, data[start:stop]) for start, stop in itertools.pairwise(edges)]
    heads: list[Header | None] = [header] + [None] * (len(pieces) - 1)
    return [encode_frame(Frame(head, *piece)) for head, piece in zip(heads, pieces, strict=True)]


def contents(table: Table, rng: random.Random) -> bytes:
    """Return random numbers for a table, all finite."""
    buffer = np.zeros(table.nbytes, np.uint8)
    for array in table.arrays(buffer).values():
        array[...] = rng.randint(0, 1) if array.dtype.kind == "b" else rng.randint(0, 9)
    return buffer.tobytes()


class PushFuzzer:
    """Makes streams of nearly correct pushes.

    Args:
        seed: of the mutations.
        incarnation: of the lease.
        tables: of the shards, by name.
    """

    def __init__(self, seed: int, incarnation: int, tables: Mapping[str, Table]) -> None:
        self.incarnation = incarnation
        self._tables = tables
        self._rng = random.Random(seed)
        self._mutator = Mutator(self._rng)

    def stream(self, sequences: Mapping[str, int]) -> list[bytes]:
        """Make one or two mutated pushes behind the last sequence of each shard."""
        frames: list[bytes] = []
        for _ in range(self._rng.randint(1, 2)):
            frames += self._push(sequences)
        for _ in range(self._rng.choice((0, 1, 1, 1, 2, 3))):
            if self._rng.randrange(10):
                frames = self._mutator.change(frames)
            else:
                at = self._rng.randrange(len(frames))
                frames[at] = self._with_another_header(frames[at])
        return frames

    def _push(self, sequences: Mapping[str, int]) -> list[bytes]:
        rng = self._rng
        shard = rng.choice(list(self._tables))
        table = self._tables[shard]
        operation = rng.choice((Operation.UPDATE,) * 5 + (Operation.CREATE,))
        sequence = min(sequences[shard] + 1, 2**64 - 1) if operation is Operation.UPDATE else 0
        header = Header(shard, operation, 0, self.incarnation, sequence, sequence, table)
        cuts = sorted(rng.sample(range(0, table.nbytes, 8), rng.randint(0, 3)))
        return pushed(header, contents(table, rng), [cut for cut in cuts if cut or rng.random() < 0.5])

    def _with_another_header(self, encoded: bytes) -> bytes:
        frame, rng = decoded_or_none(encoded), self._rng
        if frame is None or frame.header is None:
            return encoded
        shards = (*self._tables, "1/input", "2/weights", "", "/", "1/../x")
        changes: list[dict[str, Any]] = [
            {"shard": rng.choice(shards)},
            {"operation": rng.choice(list(Operation))},
            {"incarnation": rng.choice(EDGES)},
            {"sequence": rng.choice(EDGES)},
            {"version": rng.choice(EDGES)},
            {"table": rng.choice((*self._tables.values(), self._lying_table()))},
        ]
        return encode_frame(replace(frame, header=replace(frame.header, **rng.choice(changes))))

    def _lying_table(self) -> Table:
        rng = self._rng
        table = rng.choice(list(self._tables.values()))
        specs = list(table.tensors)
        at = rng.randrange(len(specs))
        changes: list[dict[str, Any]] = [
            {"shape": (rng.choice((0, 1, 2**31, 2**63)),) * rng.randint(0, 3)},
            {"offset": rng.choice((0, 4, 2**40, 2**64 - 1))},
            {"dtype": rng.choice(("float16", "object", "", "int64"))},
            {"kind": rng.choice(("", "buffer", "secret"))},
            {"name": rng.choice(("", "weight", "x" * 2000))},
        ]
        specs[at] = replace(specs[at], **rng.choice(changes))
        return Table(tuple(specs), rng.choice((table.nbytes, 0, 2**40, 2**64 - 1)))


def decoded_or_none(encoded: bytes) -> Frame | None:
    """Decode a frame; None where it is no frame."""
    try:
        return decode_frame(encoded)
    except LayerwiseError:
        return None
