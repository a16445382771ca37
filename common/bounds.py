"""Bounds of what peers send and of networks; a test compares docs/protocol.md with those of peers.

Each bound is checked before anything is computed, and before memory is taken.
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Tables.
MOST_TENSORS = 10_000
# Messages with activations and gradients have few.
MOST_SIGNAL_TENSORS = 512
# numpy 1 has no more.
MOST_DIMENSIONS = 32
LARGEST_SHARD_BYTES = 8 * GIB

# Built-in networks: numbers or channels that a unit gives, and units.
MOST_WIDTH = 1_000_000
MOST_UNITS = 10_000

# Characters of a text, and entries of a map or a repeated field.
MOST_TEXT = 4096
MOST_ENTRIES = 10_000
# Characters of a configuration.
MOST_CONFIG = 1 * MIB
# Texts that are longer by nature, by message and field.
LONG_TEXTS = {("DescribeReply", "config"): MOST_CONFIG}

# Fields of a message with a payload, and bytes beside the payload.
MOST_FIELDS = 1000
MOST_SMALL_BYTES = 1 * MIB

# Bytes of a message: of any method without a row below, of senders that are still unknown, of heartbeats.
SMALL_MESSAGE_BYTES = 64 * KIB
# A piece of a shard with its header.
LARGEST_PIECE_MESSAGE_BYTES = 4 * MIB
# A batch of activations or gradients.
LARGEST_SIGNAL_MESSAGE_BYTES = 256 * MIB

# Bytes of a request and of a reply, by service and method.
MESSAGE_BYTES: dict[str, tuple[int, int]] = {
    "Roster.Describe": (SMALL_MESSAGE_BYTES, 2 * MIB),
    "Roster.Heartbeat": (SMALL_MESSAGE_BYTES, 1 * MIB),
    "Roster.Status": (SMALL_MESSAGE_BYTES, 16 * MIB),
    "Keeper.Snapshot": (SMALL_MESSAGE_BYTES, 1 * MIB),
    "Keeper.Snapshots": (SMALL_MESSAGE_BYTES, 16 * MIB),
    "Keeper.Rollback": (SMALL_MESSAGE_BYTES, 1 * MIB),
    "Stores.Attend": (16 * MIB, 1 * MIB),
    "Parameters.Push": (LARGEST_PIECE_MESSAGE_BYTES, SMALL_MESSAGE_BYTES),
    "Parameters.Pull": (SMALL_MESSAGE_BYTES, LARGEST_PIECE_MESSAGE_BYTES),
    "Boundary.Exchange": (LARGEST_SIGNAL_MESSAGE_BYTES, LARGEST_SIGNAL_MESSAGE_BYTES),
    "Synthesis.Synthesize": (LARGEST_SIGNAL_MESSAGE_BYTES, LARGEST_SIGNAL_MESSAGE_BYTES),
}


def message_bytes(service: str, method: str) -> tuple[int, int]:
    """Return the bounds of a method's request and reply, in bytes."""
    return MESSAGE_BYTES.get(f"{service}.{method}", (SMALL_MESSAGE_BYTES, SMALL_MESSAGE_BYTES))
