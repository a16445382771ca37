"""MNIST, 28x28 handwritten digits (LeCun et al. 1998)."""

from __future__ import annotations

from common.data.published import describe_idx

PUBLISHED = describe_idx(
    "mnist",
    homes=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    md5s=(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    mean=0.1307,
    std=0.3081,
)
load = PUBLISHED.load
