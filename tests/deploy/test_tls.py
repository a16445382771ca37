"""Commands and a master that disagree about TLS: one clear error, of the kind "refused"."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config.files import load
from common.credentials import Certificate, Credentials
from common.errors import ConfigError, ForbiddenError, RefusedError
from common.net import control
from common.net.access import Role
from common.net.backoff import Backoff
from common.net.identity import CA, find_identity
from common.wire.messages import Evaluation, JoinRequest
from common.wire.methods import JOIN
from deploy.cli import run
from deploy.evaluation.reader import Reader
from slave.network.options import Options
from slave.network.transfer import Fetcher, Pusher
from slave.service import Slave
from tests.authority import identity, write_certificate
from tests.master.served import Served, served


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[Served]:
    """A master with certificates."""
    own, caller = identity(folder / "master", Role.MASTER), identity(folder / "slave", Role.SLAVE)
    with served(folder / "state", identity=own, caller=caller) as running:
        yield running


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with secured(tmp_path_factory.mktemp("secured")) as running:
        yield running


def certificate(folder: Path, role: Role, *, signer: str = "") -> Path:
    return write_certificate(folder / role.value, role, signer=signer)


def test_readers_and_operators_do_what_they_may(master: Served, tmp_path: Path) -> None:
    with Reader(master.address, tls=certificate(tmp_path, Role.READER)) as reader:
        assert reader.status().name == "layerwise"
        assert reader.snapshots() == []
        with pytest.raises(ForbiddenError, match="certificate of reader has the role reader here; show one"):
            reader.snapshot()
    with Reader(master.address, tls=certificate(tmp_path, Role.EVALUATOR)) as reader:
        reader.report(Evaluation(test_loss=1.0))
        with pytest.raises(ForbiddenError, match="the role operator"):
            reader.roll_back(0)
    with Reader(master.address, tls=certificate(tmp_path, Role.OPERATOR)) as reader:
        assert reader.snapshot().number == 1


def test_a_command_in_the_clear_is_told_of_tls(master: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--master", master.address]) == 3
    error = capsys.readouterr().err
    words = f"layerwise: {master.address}: speaks TLS alone; give the folder of a certificate by --tls DIR"
    assert error.startswith(words)
    assert error.count("\n") == 1


def test_a_command_with_tls_is_told_of_a_master_in_the_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = certificate(tmp_path, Role.READER)
    with served(tmp_path / "state") as plain:
        assert run(["status", "--master", plain.address, "--tls", str(folder)]) == 3
    error = capsys.readouterr().err
    assert "the peer speaks no TLS; start it with --tls DIR, or leave out --tls here" in error


@pytest.mark.parametrize("tls", [False, True])
def test_nobody_at_the_address_is_not_a_matter_of_tls(
    tls: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--tls", str(certificate(tmp_path, Role.READER))] if tls else []
    assert run(["status", "--master", "127.0.0.1:42929", *given]) == 3
    assert "no master answers (Connection refused)" in capsys.readouterr().err


def test_an_unknown_authority_is_named_at_either_end(master: Served, tmp_path: Path) -> None:
    foreign = certificate(tmp_path, Role.READER, signer="foreign")
    with pytest.raises(RefusedError, match=r"the certificate of a peer is not trusted: .*; give both ends"):
        Reader(master.address, tls=foreign).status()
    trusted = (write_certificate(tmp_path / "own", Role.READER) / CA).read_bytes()
    (foreign / CA).write_bytes(trusted + (foreign / CA).read_bytes())
    with pytest.raises(
        RefusedError, match=r"of reader; give both ends|a peer does not trust the certificate"
    ):
        Reader(master.address, tls=foreign).status()


def test_a_peer_that_is_no_master_is_refused(tmp_path: Path) -> None:
    own = identity(tmp_path / "impostor", Role.SLAVE)
    with (
        served(tmp_path / "state", identity=own, caller=own) as impostor,
        pytest.raises(RefusedError, match="the certificate of slave does not have the role master"),
    ):
        Reader(impostor.address, tls=certificate(tmp_path, Role.READER)).status()


def test_an_expired_master_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("common.net.identity._own", lambda *_: Certificate("master"))
        folder = write_certificate(tmp_path / "master", Role.MASTER, age=9)
        expired = find_identity(folder)
        assert expired is not None
    with (
        served(tmp_path / "state", identity=expired, caller=None) as running,
        pytest.raises(RefusedError, match="is not trusted: certificate has expired"),
    ):
        Reader(running.address, tls=certificate(tmp_path, Role.READER)).status()


def test_a_slave_gives_up_at_once_where_waiting_is_of_no_use(master: Served, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="speaks TLS alone"):
        Slave(Options(master.address, wait=600.0)).run()
    with pytest.raises(ForbiddenError, match="the certificate of operator has the role operator here"):
        _join(master.address, certificate(tmp_path, Role.OPERATOR))


def test_a_certificate_for_another_run_is_refused_by_its_own_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a master for one run could take the slaves of another."""
    words = "does not have the role {} in runs named layerwise"
    slave = write_certificate(tmp_path / "slave", Role.SLAVE, run="another")
    with pytest.raises(ConfigError, match=words.format("slave")):
        Slave(Options("127.0.0.1:1", tls=slave))._checked(load(None))
    slave = write_certificate(tmp_path / "slave", Role.SLAVE, run="layerwise")
    own = Slave(Options("127.0.0.1:1", tls=slave))
    own._checked(load(None))
    assert own._site.run == "layerwise"
    master = write_certificate(tmp_path / "master", Role.MASTER, run="another")
    (tmp_path / "run.toml").touch()
    given = ["master", str(tmp_path / "run.toml"), "--state-dir", str(tmp_path / "s"), "--tls", str(master)]
    assert run(given) == 2
    assert words.format("master") in capsys.readouterr().err


def test_a_slaves_pushes_and_fetches_are_for_a_master_of_the_run(tmp_path: Path) -> None:
    own = find_identity(write_certificate(tmp_path / "slave", Role.SLAVE))
    other = find_identity(write_certificate(tmp_path / "master", Role.MASTER, run="another"))
    assert own is not None
    assert other is not None
    shown, take = Credentials(), lambda _: None
    backoff = Backoff(time.monotonic, random.random)
    pusher = Pusher("127.0.0.1:1", shown, take, backoff, own, "layerwise")
    fetcher = Fetcher("127.0.0.1:1", shown, take, lambda *_: None, own, "layerwise")
    for thread in (pusher, fetcher):
        assert thread._client._tls is not None
        with pytest.raises(RefusedError, match="does not have the role master in runs named layerwise"):
            thread._client._tls.check(other.certificate)


def _join(address: str, tls: Path) -> None:
    with control.channel(address, find_identity(tls)) as channel:
        control.call(channel, JOIN, JoinRequest("x", key="0" * 32))


def test_a_master_needs_the_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = certificate(tmp_path, Role.SLAVE)
    (tmp_path / "run.toml").touch()
    given = ["master", str(tmp_path / "run.toml"), "--state-dir", str(tmp_path / "s"), "--tls", str(folder)]
    assert run(given) == 2
    assert "the certificate of slave does not have the role master" in capsys.readouterr().err


def test_a_name_that_grpc_cuts_short_gives_no_role(
    master: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cuts at a zero byte, and would leave the name of an operator."""
    monkeypatch.setattr(
        "deploy.certificates.making.role_uri", lambda role, _: f"layerwise:{role.value}\0.mine"
    )
    folder = certificate(tmp_path, Role.OPERATOR)
    with (
        Reader(master.address, tls=folder) as reader,
        pytest.raises(ForbiddenError, match="has no role here"),
    ):
        reader.snapshot()


def test_a_channel_takes_changed_certificates_up(tmp_path: Path) -> None:
    old = certificate(tmp_path, Role.READER)
    with secured(tmp_path) as running, Reader(running.address, tls=old) as reader:
        assert reader.status().name == "layerwise"
        certificate(tmp_path, Role.MASTER, signer="new")
        with pytest.raises(RefusedError, match="is not trusted"), Reader(running.address, tls=old) as other:
            other.status()
        certificate(tmp_path, Role.READER, signer="new")
        assert reader.status().name == "layerwise"
        assert reader.snapshots() == []


def test_one_of_three_files_in_the_configuration_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text('[security]\nca = "ca.pem"\n')
    assert run(["config", str(tmp_path / "run.toml")]) == 2
    error = capsys.readouterr().err
    assert "security.certificate: is not set; give ca, certificate and key, or none" in error


def test_certificates_are_no_part_of_what_processes_share(tmp_path: Path) -> None:
    folder = certificate(tmp_path, Role.MASTER)
    keys = [f"security.{name}={folder / f'{name}.pem'}" for name in ("ca", "certificate", "key")]
    config = load(None, keys)
    assert config.security.files == tuple(folder / f"{name}.pem" for name in ("ca", "certificate", "key"))
    assert "security" in config.to_toml()
    assert config.shared == load(None)
    assert "security" not in config.shared.to_toml()
