"""`layerwise certificates`: folders, names, modes, and no overwriting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509

from common.net.access import Role, roles_of
from common.net.identity import CA, CERTIFICATE, KEY, MASTER_NAME, Identity, find_identity
from deploy.certificates.folders import folder_of, slave_folder
from deploy.cli import run

FOLDERS = ("master", "slave-1", "slave-2", "evaluator", "operator", "reader")


def loaded(folder: Path) -> Identity:
    found = find_identity(folder)
    assert found is not None
    return found


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())


def names(folder: Path) -> set[str]:
    found = certificate(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "certificates"
    assert run(["certificates", str(folder), "--master", "one.example.org", "--slaves", "2"]) == 0
    return folder


def test_every_process_gets_a_folder_with_its_role_for_its_owner_alone(made: Path) -> None:
    assert sorted(each.name for each in made.iterdir()) == sorted([*FOLDERS, "authority"])
    for name in FOLDERS:
        folder = made / name
        assert {each.name for each in folder.iterdir()} == {CA, CERTIFICATE, KEY}
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / KEY).stat().st_mode & 0o777 == 0o600
        own = loaded(folder).certificate
        assert own.holder == name
        assert roles_of(own, "any run") == {Role(name.partition("-")[0])}
    assert (made / "authority" / KEY).stat().st_mode & 0o777 == 0o600


def test_a_master_has_its_names_and_the_name_of_masters(made: Path) -> None:
    assert names(made / "master") >= {"one.example.org", "localhost", "127.0.0.1", MASTER_NAME}
    for name in FOLDERS[1:]:
        assert MASTER_NAME not in names(made / name)


def test_nothing_is_overwritten(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made / "master" / KEY).read_bytes()
    assert run(["certificates", str(made), "--master", "other"]) == 2
    assert "master: exists, and is not overwritten" in capsys.readouterr().err
    assert (made / "master" / KEY).read_bytes() == before


def test_an_authority_that_is_there_signs_what_is_missing(made: Path) -> None:
    for name in ("master", "evaluator", "operator", "reader"):
        (made / name).rename(made.parent / name)
    authority = (made / "authority" / CA).read_bytes()
    for name in ("slave-1", "slave-2"):
        (made / name).rename(made.parent / name)
    assert run(["certificates", str(made), "--master", "10.0.0.7", "--slaves", "1"]) == 0
    assert (made / "slave-1" / CA).read_bytes() == authority
    assert "10.0.0.7" in names(made / "master")


def test_json_lists_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "c"
    assert run(["certificates", str(folder), "--master", "::1", "--days", "7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["authority"] == str(folder / "authority")
    assert found["certificates"][0] == {"folder": str(folder / "master"), "days": 7}


def test_a_certificate_for_one_run_gives_no_role_in_another(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    assert run(["certificates", str(folder), "--master", "one", "--run", "my run: 1", "--slaves", "1"]) == 0
    own = loaded(folder / "slave-1").certificate
    assert roles_of(own, "my run: 1") == roles_of(own, None) == {Role.SLAVE}
    assert roles_of(own, "my run") == roles_of(own, "") == set()


def test_renewed_certificates_keep_names_and_have_new_keys(made: Path) -> None:
    before = {name: (names(made / name), (made / name / KEY).read_bytes()) for name in FOLDERS}
    serial = certificate(made / "master").serial_number
    assert run(["certificates", str(made), "--renew"]) == 0
    for name in FOLDERS:
        assert names(made / name) == before[name][0]
        assert (made / name / KEY).read_bytes() != before[name][1]
        assert (made / name / KEY).stat().st_mode & 0o777 == 0o600
        assert loaded(made / name).certificate.holder == name
        assert len(list((made / name).iterdir())) == 3
    assert certificate(made / "master").serial_number != serial


def test_renewal_keeps_the_authorities_that_are_trusted_and_adds_the_one_that_signs(made: Path) -> None:
    old = (made / "authority" / CA).read_bytes()
    (made / "authority").rename(made.parent / "old authority")
    other = made.parent / "other"
    assert run(["certificates", str(other), "--master", "one"]) == 0
    (other / "authority").rename(made / "authority")
    new = (made / "authority" / CA).read_bytes()
    for _ in range(2):
        assert run(["certificates", str(made), "--renew"]) == 0
        for name in FOLDERS:
            assert (made / name / CA).read_bytes() == new + old
            assert loaded(made / name).certificate.holder == name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the name or address of the master's machine"),
        (["--master", "one:50051"], "--master one:50051: is no name and no address of a host"),
        (["--master", ""], "is no name and no address of a host"),
        (["--master", "b\u00fccher.example"], "is no name and no address of a host"),
        (["--renew", "--slaves", "1"], "keeps names and roles"),
        (["--renew"], "authority"),
    ],
)
def test_bad_arguments_have_one_clear_error(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["certificates", str(tmp_path / "c"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().split("\n")) == 1
    assert not (tmp_path / "c").exists()


def test_processes_find_their_folders(made: Path) -> None:
    assert folder_of(made, "master") == made / "master"
    assert [slave_folder(made, number).name for number in (1, 2, 3)] == ["slave-1", "slave-2", "slave-1"]
    assert folder_of(made / "reader", "master") == slave_folder(made / "reader", 2) == made / "reader"
