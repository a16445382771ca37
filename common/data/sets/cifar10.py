"""CIFAR-10, 32x32 colour photographs (Krizhevsky 2009)."""

from __future__ import annotations

from common.data import cifar10
from common.data.downloads import Source
from common.data.published import Published

PUBLISHED = Published(
    "cifar10",
    Source(("https://www.cs.toronto.edu/~kriz/",), {cifar10.ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530"}),
    cifar10.missing,
    cifar10.read,
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
)
load = PUBLISHED.load
