"""`layerwise doctor` finds what is wrong with a certificate, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.net.access import Role
from common.net.identity import CA, CERTIFICATE, KEY
from deploy.doctor.findings import Finding
from deploy.doctor.report import exit_code
from deploy.doctor.setup import Setup, ask_setup, read_setup
from tests.authority import identity, write_certificate
from tests.deploy.doctor.test_doctor import finding
from tests.master.served import served


def found(folder: Path, *overrides: str) -> Finding:
    return finding(read_setup(None, overrides, None, None, folder), "certificates")


def slave(folder: Path, **facts: object) -> Path:
    return write_certificate(folder / "own", Role.SLAVE, **facts)  # type: ignore[arg-type]


def test_a_sound_certificate_tells_roles_and_ends(tmp_path: Path) -> None:
    own = slave(tmp_path, days=90)
    verdict = found(own)
    assert verdict.state == "ok"
    assert verdict.found == "slave: roles slave, ends in 90 days; its authority in 3650"


def test_the_files_of_the_configuration_are_checked_too(tmp_path: Path) -> None:
    own = slave(tmp_path, days=90)
    files = zip(("ca", "certificate", "key"), (CA, CERTIFICATE, KEY), strict=True)
    setup = read_setup(None, [f"security.{name}={own / file}" for name, file in files], None, None)
    assert finding(setup, "certificates").state == "ok"


@pytest.mark.parametrize(
    ("make", "state", "words", "fix"),
    [
        (lambda at: slave(at), "warning", "ends in 2 days", "--renew"),
        (lambda at: slave(at, age=9), "failed", "certificate has expired", "make new ones"),
        (lambda at: slave(at, days=90, run="another"), "failed", "roles none", "layerwise:slave"),
        (lambda at: at / "nothing", "failed", "No such file or directory", "make new ones"),
    ],
)
def test_what_is_wrong_is_found_with_a_fix(
    make: Callable[[Path], Path], state: str, words: str, fix: str, tmp_path: Path
) -> None:
    verdict = found(make(tmp_path))
    assert verdict.state == state
    assert words in verdict.found
    assert fix in verdict.fix


def test_a_key_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    own = slave(tmp_path, days=90)
    (own / KEY).chmod(0o644)
    verdict = found(own)
    assert verdict.state == "warning"
    assert verdict.fix == f"chmod 600 {own / KEY}"


def test_a_master_is_asked_over_tls(tmp_path: Path) -> None:
    own = slave(tmp_path, days=90)
    with served(tmp_path / "state", identity=identity(tmp_path / "master", Role.MASTER)) as master:
        asked = ask_setup(master.address, None, None, None, own)
        assert asked.trouble is None
        assert finding(asked, "certificates").state == finding(asked, "master").state == "ok"
        assert finding(asked, "agreement").state == "ok"
        plain = ask_setup(master.address, None, None)
        verdict = finding(plain, "master")
        assert "speaks TLS alone; give the folder of a certificate by --tls DIR" in verdict.found
        assert exit_code(plain, [verdict]) == 3


def test_a_slave_to_be_needs_the_role(tmp_path: Path) -> None:
    own = write_certificate(tmp_path / "reader", Role.READER, days=90)
    verdict = finding(Setup(None, master="127.0.0.1:1", tls=own), "certificates")
    assert verdict.state == "warning"
    assert verdict.fix == "a slave needs the name layerwise:slave"
