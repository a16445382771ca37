"""Data sets, loaded raw: bytes stay bytes until a batch is constructed.

Imports neither torch nor scikit-learn: each takes longer to import than a data set takes to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from common.config.data import AUGMENTS, DATASETS, DataConfig, DataRow
from common.config.models import MODELS
from common.config.sections import Config
from common.config.settings import nearest
from common.config.values import is_user_function
from common.data import labels, sets, user_data
from common.data.downloads import Source
from common.data.examples import Arrays, Examples, epoch_length
from common.data.forms import Form
from common.data.lazy import Lazy
from common.data.series import Windows, cut_series
from common.data.statistics import Scaling, measure
from common.data.streams import order_streams
from common.data.targets import Targets
from common.data.vocabularies import Vocabulary
from common.data.windows import ShortTextError
from common.errors import ConfigError
from common.registry import import_implementation
from common.signals.forms import PLAIN, SignalForm, TensorForm


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training examples and test examples.

    Attributes:
        name: value of `data.dataset`.
        train: training examples.
        test: test examples, with the names, shapes and dtypes of `train`.
        scalings: of the tensors of bytes and floats, by name; the others stay as they are.
        classes: number of classes, or size of the vocabulary; for float targets the size of a target.
        augment: variation of the training examples, a value of `data.augment`.
        vocabulary: text of tokens; None: examples hold no text, or the text of tokens is unknown.
        characters_per_token: of the test set's text; None: unknown.
    """

    name: str
    train: Examples
    test: Examples
    scalings: Mapping[str, Scaling]
    classes: int
    augment: str = "none"
    vocabulary: Vocabulary | None = None
    characters_per_token: float | None = None

    @cached_property
    def inputs(self) -> SignalForm:
        """Form of x; whole numbers of a user are tokens up to the largest number of the arrays."""
        return SignalForm({name: self._find_form(name, raw) for name, raw in self.train.input_forms.items()})

    def _find_form(self, name: str, raw: Form) -> TensorForm:
        if name in self.scalings:
            return TensorForm(raw.shape)
        if raw.dtype.kind == "b":
            return TensorForm(raw.shape, "bool")
        return TensorForm(raw.shape, "int64", self._count_tokens(name))

    def _count_tokens(self, name: str) -> int:
        """Return the number of different tokens; 0: unknown."""
        tokens = self.classes if name == PLAIN else 0
        train, test = (part.steps if isinstance(part, Windows) else part for part in (self.train, self.test))
        if is_user_function(self.name) and isinstance(train, Arrays) and isinstance(test, Arrays):
            tokens = max(tokens, 1 + int(max(train.x[name].max(), test.x[name].max())))
        return tokens

    @property
    def targets(self) -> Targets:
        """Facts from which the task of a run is built."""
        classes = self.classes if self.train.target_dtype.kind == "i" else 0
        return Targets(classes, self.train.target_shape, self.characters_per_token)

    def check_fit(self, config: Config) -> None:
        """Check that a run with this data can begin: batch size, streams and targets.

        A user's own labels must leave out no class, or a user's own network must have an output for each
        class that they leave out: a gap comes from examples that were to be ignored, such as those labelled
        255, and a network would train on these.

        Raises:
            ConfigError: too few examples, targets that do not fit the task, or labels with a gap.
        """
        if config.groups is None:
            self.check_batch_size(config.run.batch_size)
        else:
            order_streams(self.train, config.run.seed, config.run.batch_size, config.groups)
        self._check_model(config.network.model)
        rule = config.task.row.targets
        labels.check_form(rule, self.name, self.train, self.test)
        if not is_user_function(self.name):
            return
        labels.check_range(rule, self.name, self.train, self.test)
        if rule.counted:
            gaps = is_user_function(config.network.model)
            labels.check_classes(self.name, self.train, self.test, self.classes, gaps=gaps)

    def _check_model(self, model: str) -> None:
        """Check that a built-in network takes the kind of inputs that the examples have."""
        row = MODELS.get(model)
        if row is None:
            return
        if not self.inputs.is_plain:
            raise ConfigError(
                f"network.model: {model} takes one tensor, but the examples of data.dataset = "
                f'"{self.name}" are {self.inputs.describe_example()}; give a network of your own, '
                "path/to/file.py:function"
            )
        tokens = not self.inputs.only.floating
        if row.takes_tokens != tokens:
            kinds = {True: "tokens", False: "numbers"}
            fitting = MODELS.select(lambda each: each.takes_tokens == tokens)
            raise ConfigError(
                f"network.model: {model} takes {kinds[row.takes_tokens]}, but the examples of data.dataset = "
                f'"{self.name}" are {kinds[tokens]}; choose {" or ".join(fitting)}, or other data'
            )

    def check_batch_size(self, batch_size: int) -> None:
        """Check that an epoch has at least `batch_size` examples.

        Raises:
            ConfigError: the data set has fewer training examples.
        """
        count = epoch_length(self.train)
        if batch_size > count:
            raise ConfigError(
                f"run.batch_size: {batch_size} is more than the {count} training examples of {self.name}; "
                f"give at most {count}"
            )


def of(config: Config, *, path: Path | None = None, code: Path | None = None) -> Dataset:
    """Load the data set of a run; arguments and errors as of `load`."""
    return load(config.data, config.time.window, path=path, code=code)


def load(
    data: DataConfig,
    window: int | None = None,
    *,
    path: Path | None = None,
    code: Path | None = None,
    source: Source | None = None,
) -> Dataset:
    """Load a configuration's data set.

    Args:
        data: section [data].
        window: `time.window`, the tokens, or a user's rows, of an example; None: as `data` says.
        path: folder that replaces `data.path` (a slave's `--data`).
        code: folder in which a user's file is searched first (a slave's `--code`).
        source: addresses that replace the published ones.

    Raises:
        ConfigError: the data set cannot be read, or its examples do not fit `data.augment`.
    """
    try:
        dataset = _load_raw(replace(data, context=window or data.context), window, path, code, source)
    except ShortTextError as error:
        raise ConfigError(f"{'time.window' if window else 'data.context'}: {error}") from None
    if AUGMENTS[data.augment].needs_images:
        _check_images(dataset, data.augment)
    return replace(dataset, augment=data.augment)


def _check_images(dataset: Dataset, augment: str) -> None:
    if not dataset.inputs.is_plain or len(dataset.inputs.only.shape) != 3:
        raise ConfigError(
            f"data.augment: {augment} is for images (channels, height, width), but the data's examples "
            f'are {dataset.inputs.describe_example()}; choose "none"'
        )


def _load_raw(
    data: DataConfig, window: int | None, path: Path | None, code: Path | None, source: Source | None
) -> Dataset:
    own = is_user_function(data.dataset)
    if not own and data.dataset not in DATASETS:
        raise ConfigError(f"data.dataset: {data.dataset} is not known{nearest(data.dataset, DATASETS)}")
    row = DATASETS.get(data.dataset) or DataRow(name=data.dataset, help="")
    place = _find_path(row, data, path)
    if own:
        return _load_user(data.dataset, code, place, window)
    dataset: Dataset = import_implementation(sets.__name__, row.name).load(data, place, source)
    return dataset


def _find_path(row: DataRow, data: DataConfig, path: Path | None) -> Path | None:
    if row.curriculum and path is not None:
        raise ConfigError(
            f"--data {path}: {row.name} is made by the program, from no files; leave --data out"
        )
    kind = "file or folder" if row.takes_file else "folder"
    if path is None and data.path is None:
        if row.needs_path:
            raise ConfigError(f"data.path: is unset; give the {kind} of {row.name}")
        return None
    place, key = (path, "--data") if path is not None else (Path(str(data.path)), "data.path")
    if not (place.is_dir() or (row.takes_file and place.is_file())):
        files = "the text" if row.takes_file else f"the files of {row.name}"
        raise ConfigError(f"{key}: {place} is not a {kind}; give the {kind} that holds {files}")
    return place


def _load_user(spec: str, code: Path | None, path: Path | None, window: int | None) -> Dataset:
    train, test = user_data.load(spec, code, path)
    classes = labels.count_classes(spec, train, test)
    # Not all of these is read before the run: a label beyond the classes is refused as it is read.
    train, test = (
        replace(part, classes=classes) if isinstance(part, Lazy) else part for part in (train, test)
    )
    scalings = measure(train)
    if window is not None:
        train, test = cut_series(train, test, window, spec)
    return Dataset(spec, train, test, scalings, classes)
