"""Section [data]: the data set and the variation of training examples."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.settings import choice, key
from common.registry import Registry, Row

DATASETS = Registry(
    Row(name="digits", help="8x8 digits of scikit-learn, no download"),
    Row(name="mnist", help="28x28 digits"),
    Row(name="fashion-mnist", help="28x28 articles of clothing"),
    Row(name="cifar10", help="32x32 colour photographs"),
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
        None, "folder that holds the data set's files; unset: downloaded to the user's cache"
    )
    augment: str = choice("none", AUGMENTS)
