"""Files of tokens: found beside a master of the same user on the same machine, or named by an option."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.credentials import NOBODY, Credentials
from common.errors import ConfigError
from common.net.tokens import find_joiner, find_operator, forget_master, note_master, read_token
from tests.master.served import served


def test_a_master_of_the_same_user_on_this_machine_needs_no_option(tmp_path: Path) -> None:
    with served(tmp_path) as master:
        _, port = master.address.split(":")
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]"):
            assert find_joiner(f"{host}:{port}") == master.joiner
            assert find_operator(f"{host}:{port}") == master.operator
        assert find_joiner(f"192.0.2.1:{port}") == NOBODY
    assert find_joiner(master.address) == NOBODY


def test_the_token_of_a_master_that_was_killed_is_shown_to_nobody(tmp_path: Path) -> None:
    """Another program may have the port by then."""
    with served(tmp_path):
        pass
    assert (tmp_path / "join.token").exists()
    note_master(65535, tmp_path)
    assert find_joiner("127.0.0.1:65535") == NOBODY
    forget_master(65535, tmp_path)


def test_a_master_forgets_no_note_of_its_successor(tmp_path: Path) -> None:
    with served(tmp_path / "new") as master:
        port = int(master.address.split(":")[1])
        forget_master(port, tmp_path / "old")
        assert find_joiner(master.address) == master.joiner


def test_a_file_that_an_option_names_is_taken(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    assert find_joiner("192.0.2.1:1", tmp_path / "token") == Credentials(token="abc")


@pytest.mark.parametrize("content", ["", "\n", "two words", "x" * 2000, "\u00e9"])
def test_a_file_without_a_token_is_named_with_its_option(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match=r"--token-file .*/token: has no token; copy the file"):
        find_operator("192.0.2.1:1", tmp_path / "token")


def test_a_missing_file_is_named_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--join-token-file .*/none: No such file or directory; give a copy"
    ):
        read_token(tmp_path / "none", "--join-token-file")
