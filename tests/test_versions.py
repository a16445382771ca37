"""The constraints files name every dependency of setup.cfg, within its range."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def read_lowest() -> dict[str, str]:
    """Return the lower bound of every dependency of the package."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return dict(re.findall(r"^(\S+) >= (\S+)$", settings["options"]["install_requires"], re.MULTILINE))


def read_pins(name: str) -> dict[str, str]:
    """Return the versions that a constraints file pins, with names as setup.cfg spells them."""
    pins = re.findall(r"^(\S+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    return {package.replace("_", "-"): version for package, version in pins}


def as_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split("!")[-1].split(".")]


def test_the_lowest_versions_tested_are_the_lowest_allowed() -> None:
    lowest, pins = read_lowest(), read_pins("constraints-lowest.txt")
    assert pins.keys() == lowest.keys()
    # PyPI has no small CPU build of the lowest torch.
    for package in lowest.keys() - {"torch"}:
        assert (pins[package] + ".").startswith(lowest[package] + "."), package
        assert as_numbers(pins[package])[len(as_numbers(lowest[package])) :] in ([], [0]), package


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt", "constraints-highest.txt"])
def test_every_set_of_versions_is_within_the_ranges(name: str) -> None:
    lowest, pins = read_lowest(), read_pins(name)
    assert lowest.keys() <= pins.keys()
    for package, version in lowest.items():
        assert as_numbers(pins[package]) >= as_numbers(version), package
