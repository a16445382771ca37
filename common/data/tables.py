"""Rows of Arrow tables and of Arrow and Parquet files, by pyarrow, an optional package.

Arrow files are mapped. Parquet files cannot be read by row: they are rewritten once, as an Arrow file in the
user's cache, a few row groups in memory at a time.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from common.data import downloads
from common.data.examples import Medium
from common.data.forms import check_names
from common.data.mapped import AROUND_BYTES, Pages
from common.data.pointers import explain_pointer, holds_pointer
from common.errors import ConfigError
from common.signals.forms import PLAIN
from common.text import advise_install

_PARQUET = (".parquet", ".pq")
_ROWS = 4096
# Columns in which pandas saves the index of rows.
_INDEX = "__index_level_"
# Characters of the names of columns in a message.
_MOST_SHOWN = 500


def open_rows(value: Any, name: str) -> TableRows | None:
    """Open a table of pyarrow, or the path or paths of Arrow or Parquet files; None: the value is neither.

    Args:
        value: a table, a dataset of pyarrow on local files, a path, or a list of paths.
        name: of the set, for a refusal.

    Raises:
        ConfigError: pyarrow is missing, a file cannot be read, or columns are not an input and a target.
    """
    loaded = sys.modules.get("pyarrow")
    if loaded is not None and isinstance(value, loaded.Table):
        return TableRows(value, [], name)
    paths = _paths(value)
    if not paths:
        return None
    try:
        import pyarrow
    except ImportError:
        raise ConfigError(
            f"{name}: {paths[0]} needs pyarrow, which is not installed; {advise_install('arrow')}"
        ) from None
    opened = [_open(Path(path), name) for path in paths]
    try:
        table = pyarrow.concat_tables([each for each, _ in opened])
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{name}: the files have several kinds of columns ({_line(error)})") from None
    return TableRows(table, [pages for _, pages in opened], name)


def _paths(value: Any) -> Sequence[str | Path]:
    if isinstance(value, str | Path):
        return [value]
    if isinstance(value, list | tuple) and value and all(isinstance(each, str | Path) for each in value):
        return value
    dataset = sys.modules.get("pyarrow.dataset")
    if dataset is not None and isinstance(value, dataset.FileSystemDataset):
        return [str(file) for file in value.files]
    return []


class TableRows:
    """Rows of a table of two columns, an input and a target, or of several inputs and a target.

    Of two columns `x` is the input, or `y` the target, or else the first is the input. Of more, `y` is the
    target, and each other column an input by name. Columns hold numbers, or lists of numbers of one length,
    to any depth; those of named inputs may hold booleans.
    """

    medium = Medium.FILE

    def __init__(self, table: Any, pages: Sequence[Pages], name: str) -> None:
        inputs, target = _choose_columns(table.column_names, name)
        self._name, self._pages, self._length = name, pages, len(table)
        self._inputs = {key: _Column(table.column(each), name, each) for key, each in inputs.items()}
        self._targets = _Column(table.column(target), name, target)

    def __len__(self) -> int:
        return self._length

    def inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read raw inputs.

        Raises:
            ConfigError: values that are missing, no numbers, or lists of several lengths.
        """
        return {name: self._note(column.read(rows), len(rows)) for name, column in self._inputs.items()}

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Read raw targets; errors as of `inputs`."""
        return self._note(self._targets.read(rows), len(rows))

    def _note(self, values: np.ndarray, rows: int) -> np.ndarray:
        for pages in self._pages:
            pages.note(values.nbytes + rows * AROUND_BYTES)
        return values


def _choose_columns(names: Sequence[str], where: str) -> tuple[dict[str, str], str]:
    """Return the columns of the inputs by name, and the column of the target."""
    names = [name for name in names if not name.startswith(_INDEX)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"{where} has the column {twice[0]} twice; rename one of them")
    if len(names) == 2:
        x, y = reversed(names) if names[0] == "y" or names[1] == "x" else names
        return {PLAIN: x}, y
    if len(names) < 2 or "y" not in names:
        raise ConfigError(
            f"{where} has the columns {_list_columns(names)}; select the input and the target, in this "
            "order, or name the target y, so that the other columns are inputs by name"
        )
    inputs = [name for name in names if name != "y"]
    check_names(inputs, where)
    return {name: name for name in inputs}, "y"


def _list_columns(names: Sequence[str]) -> str:
    return shorten(", ".join(names), _MOST_SHOWN) or "of no names"


class _Column:
    """Chunks of a column: rows are sliced from their chunks, since `take` may copy all chunks together."""

    def __init__(self, column: Any, table: str, name: str) -> None:
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._starts = [0, *accumulate(map(len, self._chunks))]
        self._name = f"{table}: the column {name}"

    def read(self, rows: np.ndarray) -> np.ndarray:
        import pyarrow

        pieces = pyarrow.concat_arrays([self._row(row) for row in rows.tolist()])
        return self._numbers(pieces)

    def _row(self, row: int) -> Any:
        chunk = bisect.bisect_right(self._starts, row) - 1
        return self._chunks[chunk].slice(row - self._starts[chunk], 1)

    def _numbers(self, values: Any) -> np.ndarray:
        """Return (n, ...) numbers of an array of numbers or of lists."""
        from pyarrow import types

        shape = [len(values)]
        if hasattr(values, "to_tensor") and hasattr(values.type, "shape"):  # tensors of one shape
            shape += values.type.shape
            values = values.storage.flatten()
        while (
            types.is_list(values.type)
            or types.is_large_list(values.type)
            or types.is_fixed_size_list(values.type)
        ):
            self._check_full(values)
            lengths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False)).tolist()
            if len(lengths) > 1:
                raise ConfigError(
                    f"{self._name} holds lists of {lengths[0]} and of {lengths[-1]}; give all the same length"
                )
            shape.append(int(lengths[0]))
            values = values.flatten()
        self._check_full(values)
        kinds = (types.is_integer, types.is_floating, types.is_boolean)
        if not any(is_kind(values.type) for is_kind in kinds):
            raise ConfigError(
                f"{self._name} holds {values.type}; give numbers, or lists of numbers, or a table without "
                "the column"
            )
        return np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)

    def _check_full(self, values: Any) -> None:
        if values.null_count:
            raise ConfigError(f"{self._name} lacks a value in some row; remove the row")


def _open(path: Path, name: str) -> tuple[Any, Pages]:
    """Map a file: its table, whose columns are views of the mapping, and the mapping's pages."""
    import pyarrow

    try:
        if holds_pointer(path):
            raise ConfigError(f"{name}: {explain_pointer(path)}")
        arrow_file = _rewrite(path) if path.suffix in _PARQUET else path
        with arrow_file.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = _map_table(mapping)
        if table is None:
            raise ConfigError(
                f"{name}: {path} is compressed, and its rows would fill the memory; write the file without "
                "compression, or as Parquet"
            )
        return table, Pages(mapping)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ConfigError(
            f"{name}: {path} cannot be read ({_line(error)}); give an Arrow file, or a Parquet file *.parquet"
        ) from None


def _map_table(mapping: mmap.mmap) -> Any:
    """Return the table of a file, or of a stream as Hugging Face's `datasets` saves; None: is compressed."""
    import pyarrow
    from pyarrow import ipc

    buffer = pyarrow.py_buffer(mapping)
    try:
        file = ipc.open_file(buffer)
        schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
    except pyarrow.ArrowInvalid:
        stream = ipc.open_stream(buffer)
        schema, batches = stream.schema, iter(stream)
    mapped = []
    for batch in batches:
        if not _lies_within(batch, buffer):
            return None
        mapped.append(batch)
    return pyarrow.Table.from_batches(mapped, schema)


def _lies_within(batch: Any, buffer: Any) -> bool:
    """Whether a batch is a view of a buffer; what was compressed lies in memory of its own."""
    parts = (part for column in batch.columns for part in column.buffers() if part is not None and part.size)
    stop = buffer.address + buffer.size
    return all(buffer.address <= part.address and part.address + part.size <= stop for part in parts)


def _rewrite(path: Path) -> Path:
    """Write the Arrow file of a Parquet file into the user's cache, unless it is there; return its path."""
    from pyarrow import ipc, parquet

    status = path.stat()
    state = f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
    folder = downloads.cache("parquet")
    target = folder / f"{hashlib.blake2b(state.encode(), digest_size=16).hexdigest()}.arrow"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # A unique name: another process may be writing this file too.
    descriptor, part = tempfile.mkstemp(dir=folder, suffix=".part")
    try:
        with (
            os.fdopen(descriptor, "wb") as sink,
            parquet.ParquetFile(path) as source,
            ipc.new_file(sink, source.schema_arrow) as writer,
        ):
            for batch in source.iter_batches(_ROWS):
                writer.write_batch(batch)
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)
    return target


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
