"""Section [data]: the data set and the variation of training examples."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.settings import choice, key
from common.registry import Registry, Row


@dataclass(frozen=True, kw_only=True)
class DataRow(Row):
    """A data set.

    Attributes:
        needs_path: whether `data.path` must be set, since nothing is downloaded.
        takes_file: whether `data.path` may be a file.
        task: `task.kind` where it is unset.
        streams: whether examples are windows of tokens that follow each other, as `time.window` needs.
        curriculum: whether the program makes the examples, streams of episodes that become longer.
    """

    needs_path: bool = False
    takes_file: bool = False
    task: str = "classification"
    streams: bool = False
    curriculum: bool = False


# Tokens of an example where neither `data.context` nor `time.window` is set.
CONTEXT = 128
# Of data with a curriculum: levels change at multiples of so many batches.
BLOCK = 100

DATASETS = Registry(
    DataRow(name="digits", help="8x8 digits of scikit-learn, no download", heeds=("path",)),
    DataRow(name="mnist", help="28x28 digits", heeds=("path",)),
    DataRow(name="fashion-mnist", help="28x28 articles of clothing", heeds=("path",)),
    DataRow(name="cifar10", help="32x32 colour photographs", heeds=("path",)),
    DataRow(
        name="text",
        help="text of the file data.path, or of train*, valid* and test* in that folder",
        heeds=("path", "tokens", "context"),
        needs_path=True,
        takes_file=True,
        task="language",
        streams=True,
    ),
    DataRow(
        name="tokens",
        help="train.bin and val.bin of uint16 in the folder data.path, as nanoGPT writes them",
        heeds=("path", "context", "vocabulary"),
        needs_path=True,
        task="language",
        streams=True,
    ),
    DataRow(
        name="copy",
        help="bits to be repeated from memory, more bits once they are learned, for time.window",
        task="language",
        streams=True,
        curriculum=True,
    ),
    DataRow(
        name="repeat-copy",
        help="bits to be repeated several times, likewise",
        task="language",
        streams=True,
        curriculum=True,
    ),
)

TOKENS = Registry(
    Row(name="bytes", help="UTF-8"),
    Row(name="characters", help="of the training part"),
    Row(name="words", help="between white space, with <eos> and <unk>"),
)


@dataclass(frozen=True, kw_only=True)
class AugmentRow(Row):
    """A random variation of training examples.

    Attributes:
        needs_images: whether examples must be (channels, height, width).
    """

    needs_images: bool = False


AUGMENTS = Registry(
    AugmentRow(name="none", help="examples as they are"),
    AugmentRow(
        name="crop-flip",
        help="training images moved by up to 4 pixels and mirrored at random",
        needs_images=True,
    ),
)


@dataclass(frozen=True)
class DataConfig:
    """The data set."""

    dataset: str = choice("digits", DATASETS, user_function=True)
    path: str | None = key(
        None,
        "folder of the data set's files, or the file of a text, or `path` of a function of your own; unset: "
        "downloaded to the user's cache",
    )
    augment: str = choice("none", AUGMENTS)
    tokens: str = key("bytes", f"of text: {TOKENS.describe()}, or a JSON file of the tokenizers library")
    context: int | None = key(
        None, f"of text and tokens: T, the tokens of an example; unset: {CONTEXT}, or time.window", minimum=1
    )
    vocabulary: int | None = key(
        None, "of tokens: number of different tokens; unset: the largest token + 1", minimum=1, maximum=65536
    )

    @property
    def steps(self) -> int:
        """T, the tokens of an example."""
        return self.context or CONTEXT
