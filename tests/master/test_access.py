"""Every method of the services' descriptions with every credential: only those who may are let in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.credentials import NOBODY, Credentials
from common.errors import ConfigError, RefusedError
from common.net import control
from common.net.access import ACCESS
from common.net.data.places import Bounds
from common.net.listening import open_listener
from common.net.tokens import READER_TOKEN
from master.disk.credentials import load_reader, load_tokens
from master.disk.state import StateDirectory
from protos import layerwise_pb2 as pb
from slave.network.endpoint import Endpoint
from slave.network.servicer import BoundaryServer
from tests.master.served import DEADLINE, Served, served

# Who may call what, written down a second time: a changed row must be meant.
READERS = {"nothing", "join token", "operator token", "lease", "lease and join token"}
JOINERS = {"join token", "operator token", "lease and join token"}
OPERATORS = {"operator token"}
SLAVES = {"lease", "lease and join token"}
MAY = {
    "Roster/Describe": READERS,
    "Roster/Join": JOINERS,
    "Roster/Heartbeat": SLAVES,
    "Roster/Leave": SLAVES,
    "Roster/Status": READERS,
    "Roster/Report": OPERATORS,
    "Roster/Reach": JOINERS,
    "Roster/Agree": JOINERS,
    "Roster/Resize": OPERATORS,
    "Parameters/Push": SLAVES,
    "Parameters/Pull": READERS,
    "Boundary/Exchange": SLAVES,
    "Synthesis/Synthesize": SLAVES,
    "Keeper/Snapshot": OPERATORS,
    "Keeper/Snapshots": READERS,
    "Keeper/Rollback": OPERATORS,
    "Stores/Attend": JOINERS,
    "Stores/Locate": READERS,
    "Stores/Place": SLAVES,
}
DESCRIBED = {
    f"{service.name}/{method.name}": method
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
DATA_PORT = ("Parameters/", "Boundary/")
# A request that no method can decode: whoever is let in changes nothing.
GARBAGE = b"\xff"
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "ABORTED"}

WHO = (
    "nothing", "join token", "operator token", "wrong token", "lease", "lease and join token",
    "lease without a secret", "lease with a wrong secret", "lease with another's secret", "ended lease",
    "lease and wrong token",
)  # fmt: skip


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Master with two slaves; the lease of a third has ended."""
    with served(tmp_path_factory.mktemp("state")) as running:
        for name in ("a", "b", "c"):
            running.join(name)
        running.leave(3)
        yield running


def shown(master: Served, who: str) -> Credentials:
    mine, other, join = master.secrets[1], master.secrets[2], master.joiner.token
    return {
        "nothing": NOBODY,
        "join token": master.joiner,
        "operator token": master.operator,
        "wrong token": Credentials(token="0" * 32),
        "lease": Credentials(1, mine),
        "lease and join token": Credentials(1, mine, join),
        "lease without a secret": Credentials(1),
        "lease with a wrong secret": Credentials(1, "0" * 32),
        "lease with another's secret": Credentials(1, other),
        "ended lease": Credentials(3, master.secrets[3]),
        "lease and wrong token": Credentials(1, mine, "0" * 32),
    }[who]


def status_of(channel: grpc.Channel, name: str, credentials: Credentials) -> str:
    """Call a method with garbage, as in any language; the status."""
    method = DESCRIBED[name]
    kinds: Any = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }
    bound = kinds[method.client_streaming, method.server_streaming](f"/layerwise.v1.{name}")
    request = iter([GARBAGE]) if method.client_streaming else GARBAGE
    try:
        answer = bound(request, timeout=DEADLINE, metadata=credentials.metadata())
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def code_of(address: str, name: str, credentials: Credentials) -> str:
    """Call a method with garbage on a connection of its own; the status."""
    with control.channel(address) as channel:
        return status_of(channel, name, credentials)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", DESCRIBED)
def test_a_method_lets_in_those_alone_who_may_call_it(master: Served, name: str, who: str) -> None:
    address = master.data_address if name.startswith(DATA_PORT) else master.address
    code = code_of(address, name, shown(master, who))
    assert (code == "INVALID_ARGUMENT") == (who in MAY[name]), code
    assert who in MAY[name] or code in REFUSED


def test_the_table_has_a_row_for_every_method_and_no_other() -> None:
    assert set(MAY) == set(DESCRIBED) == {f"{each.service}/{each.name}" for each in ACCESS}


def test_a_join_token_that_is_not_enough_is_told_so(master: Served) -> None:
    assert code_of(master.address, "Keeper/Rollback", master.joiner) == "PERMISSION_DENIED"
    assert code_of(master.address, "Keeper/Rollback", NOBODY) == "UNAUTHENTICATED"


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_slaves_port_serves_neighbours_alone(name: str) -> None:
    endpoint = Endpoint("127.0.0.1:1")
    server = BoundaryServer(Bounds(8, 8, 8, 8), endpoint.loop)
    try:
        address = f"127.0.0.1:{server.start(open_listener('127.0.0.1', 0))}"
        code = code_of(address, name, NOBODY)
    finally:
        server.stop()
        endpoint.close()
    assert code == ("INVALID_ARGUMENT" if name == "Boundary/Exchange" else "UNIMPLEMENTED")


def test_the_state_directory_keeps_others_out(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    with served(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        for name in ("keyring", "join.token", "operator.token"):
            assert (tmp_path / "state" / name).stat().st_mode & 0o777 == 0o600


def test_the_tokens_of_a_run_outlive_its_master(tmp_path: Path) -> None:
    with served(tmp_path) as first:
        tokens = first.joiner, first.operator
    with served(tmp_path) as second:
        assert (second.joiner, second.operator) == tokens


def test_the_state_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner could put tokens of their own there."""
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(RefusedError, match="it belongs to another user; give another --state-dir"):
        StateDirectory(tmp_path)


def test_a_join_token_file_is_made_for_its_owner_alone_and_taken_again(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    state = StateDirectory(tmp_path / "state")
    file = tmp_path / "shared" / "join"
    first = load_tokens(state, file)
    assert first == load_tokens(state, file)
    assert first[1] == file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "state" / "join.token").exists()
    with pytest.raises(ConfigError, match=r"--join-token-file .*/none/join: No such file or directory"):
        load_tokens(state, tmp_path / "none" / "join")
    state.close()


def test_a_readers_token_is_made_for_its_owner_or_in_a_file_of_the_groups(tmp_path: Path) -> None:
    state, file = StateDirectory(tmp_path / "state"), tmp_path / "token"
    before = os.umask(0o022)
    try:
        own = load_reader(state, None)
        assert own == load_reader(state, None) == (tmp_path / "state" / READER_TOKEN).read_text()
        assert (tmp_path / "state" / READER_TOKEN).stat().st_mode & 0o777 == 0o600
        shared = load_reader(state, file)
        assert shared == load_reader(state, file) == file.read_text() != own
        assert file.stat().st_mode & 0o777 == 0o640
        with pytest.raises(ConfigError, match="--reader-token-file"):
            load_reader(state, tmp_path / "none" / "token")
    finally:
        os.umask(before)
        state.close()


def test_a_damaged_token_is_made_anew(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    operator, _ = load_tokens(state, None)
    for damage in (b"", operator[:7].encode(), b"\xff" * 32):
        (tmp_path / "operator.token").write_bytes(damage)
        again, _ = load_tokens(state, None)
        assert len(again) == 32
        assert again != operator
        assert (tmp_path / "operator.token").stat().st_mode & 0o777 == 0o600
    state.close()
