"""Holdings of a process: digests of its data and of its user's files, and its versions.

BLAKE2b reads about 0.5 GB a second: half a second, once a process, for the largest data set read as a whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from common.config.network import find_initial
from common.config.sections import Config
from common.config.user_files import digest_files
from common.data.datasets import Dataset
from common.data.examples import Examples, Medium, cover, input_bytes, target_bytes
from common.data.forms import Form, name_array
from common.data.orders import draw_rows
from common.versions import installed_versions
from common.wire.messages import Holdings

# Data sets beyond this size are compared by a sample of their rows.
MOST_BYTES = 256 << 20
SAMPLED_ROWS = 1000
_BLOCK_BYTES = 1 << 20


def take_stock(config: Config, dataset: Dataset, code: Path | None = None) -> Holdings:
    """Return what this process works with.

    Args:
        config: of the run.
        dataset: of the run, as loaded here.
        code: folder in which a user's file is searched first.

    Raises:
        ConfigError: a user's file is missing.
    """
    return Holdings(digest_data(dataset), _digest_files(config, code), installed_versions())


def digest_data(dataset: Dataset, most: int = MOST_BYTES) -> dict[str, str]:
    """Describe inputs and targets of both parts by dtype, shape and digest.

    Data that code of the user reads are never digested as a whole.

    Args:
        dataset: of the run.
        most: bytes of a data set that is digested as a whole. Of a larger one the digests cover the first
            row, the last, and `SAMPLED_ROWS` rows by a fixed seed.
    """
    parts = {"train": dataset.train, "test": dataset.test}
    whole = sum(map(_size, parts.values())) <= most and all(
        part.medium is not Medium.CODE for part in parts.values()
    )
    return {
        f"{name}_{array}": described
        for name, part in parts.items()
        for array, described in _describe(part, whole=whole).items()
    }


def _size(part: Examples) -> int:
    """Return the bytes that a digest of all reads."""
    return len(part) // part.stride * (input_bytes(part) + target_bytes(part))


def _describe(part: Examples, *, whole: bool) -> dict[str, str]:
    """Describe the arrays by name: x and y, or x["tokens"], x["mask"] and y."""
    rows = cover(part) if whole else _sampled(len(part))
    kind = "digest" if whole else "digest of a sample"
    forms = {name_array("x", name): form for name, form in part.input_forms.items()}
    forms["y"] = Form(part.target_shape, part.target_dtype)
    return {
        array: f"{form.dtype} {(len(part), *form.shape)} with {kind} {digest}"
        for (array, form), digest in zip(forms.items(), _digests(part, rows), strict=True)
    }


def _sampled(count: int) -> np.ndarray:
    """Choose the rows of a sample of `count` rows, a pure function."""
    return np.concatenate([[0], draw_rows(count, SAMPLED_ROWS), [count - 1]])


def _digests(part: Examples, rows: np.ndarray) -> list[str]:
    """Digest the tensors of the inputs, in the order of their forms, and the targets."""
    digests = [hashlib.blake2b(digest_size=8) for _ in (*part.input_forms, "y")]
    block = max(1, _BLOCK_BYTES // max(1, input_bytes(part) + target_bytes(part)))
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        x = part.inputs(chosen)
        for digest, array in zip(
            digests, [*(x[name] for name in part.input_forms), part.targets(chosen)], strict=True
        ):
            digest.update(np.ascontiguousarray(array).data)
    return [digest.hexdigest() for digest in digests]


def _digest_files(config: Config, code: Path | None) -> dict[str, str]:
    files = {
        f"{key} {name}": digest
        for key, spec in config.user_functions.items()
        for name, digest in digest_files(spec, code).items()
    }
    if config.network.initial is not None:
        path = find_initial(config.network.initial, code)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
        files[f"network.initial {path.name}"] = digest
    return files
