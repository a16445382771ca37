"""`layerwise certificates`: folders, names, modes, and no overwriting."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from common.errors import ConfigError
from common.net.access import Role, roles_of
from common.net.identity import CA, CERTIFICATE, KEY, MASTER_NAME, Identity, find_identity
from deploy.certificates.folders import folder_of, keep_link, slave_folder
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
    assert "master: exists, or is wanted twice, and is not overwritten" in capsys.readouterr().err
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


def test_slaves_and_other_holders_are_added_to_a_folder(made: Path) -> None:
    before = (made / "master" / KEY).read_bytes()
    more = ["--slaves", "2", "--add", "reader=grafana", "--add", "slave=gpu_7", "--run", "mine"]
    assert run(["certificates", str(made), *more]) == 0
    added = {"slave-3": Role.SLAVE, "slave-4": Role.SLAVE, "grafana": Role.READER, "gpu_7": Role.SLAVE}
    assert {each.name for each in made.iterdir()} == {*FOLDERS, "authority", *added}
    for name, role in added.items():
        own = loaded(made / name).certificate
        assert own.holder == name
        assert roles_of(own, "mine") == {role}
        assert roles_of(own, "another") == set()
        assert (made / name / CA).read_bytes() == (made / "master" / CA).read_bytes()
    assert (made / "master" / KEY).read_bytes() == before


def test_what_is_added_trusts_whom_the_others_trust(made: Path) -> None:
    """While the authority changes, there are two."""
    both = (made / "authority" / CA).read_bytes()
    assert run(["certificates", str(made.parent / "other"), "--master", "one"]) == 0
    both += (made.parent / "other" / "authority" / CA).read_bytes()
    for name in FOLDERS:
        (made / name / CA).write_bytes(both)
    assert run(["certificates", str(made), "--slaves", "1"]) == 0
    assert (made / "slave-3" / CA).read_bytes() == both


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--add", "reader=operator"], "operator: exists, or is wanted twice, and is not overwritten"),
        (["--add", "reader=a", "--add", "operator=a"], "a: exists, or is wanted twice"),
        (["--add", "slave=slave-3", "--slaves", "1"], "slave-3: exists, or is wanted twice"),
        (["--add", "master=b"], "--add master=b: has no role; give ROLE=NAME with a role of slave, store"),
        (["--add", "reader"], "--add reader: is no name of a folder"),
        (["--add", "reader=../x"], "--add reader=../x: is no name of a folder"),
        (["--add", "reader=authority"], "another name than authority"),
        (["--add", "reader=slave-x"], "names that begin like slave-1 are for slaves"),
        ([], "give what is to be added: --slaves N, --add ROLE=NAME"),
        (["--renew", "--add", "reader=a"], "keeps names and roles"),
    ],
)
def test_what_cannot_be_added_is_refused_in_one_line(
    made: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(made.iterdir())
    capsys.readouterr()
    assert run(["certificates", str(made), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().split("\n")) == 1
    assert sorted(made.iterdir()) == before


@pytest.mark.parametrize("arguments", [["--slaves", "1"], ["--master", "one", "--slaves", "1"]])
def test_nothing_is_added_without_the_authority(
    made: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "authority").rename(made.parent / "safe")
    (made / "master").rename(made.parent / "master")
    for name in ("slave-1", "evaluator", "operator", "reader"):
        (made / name).rename(made.parent / name)
    assert run(["certificates", str(made), *arguments]) == 2
    assert "authority: is missing" in capsys.readouterr().err
    assert [each.name for each in made.iterdir()] == ["slave-2"]


def test_a_run_keeps_a_link_to_its_certificates(made: Path, tmp_path: Path) -> None:
    place = tmp_path / "run-tls"
    assert keep_link(place, None, None) is None
    assert keep_link(place, made, None) == place
    assert place.readlink() == made
    # A resumed run: without an option, and with the link's own name.
    assert keep_link(place, None, None) == keep_link(place, place, None) == place
    assert place.readlink() == made
    one = made / "master"
    files = (one / CA, one / CERTIFICATE, one / KEY)
    for _ in range(2):
        assert keep_link(place, None, files) == place
        assert loaded(place).certificate.holder == "master"
    assert keep_link(place, None, None) == place
    assert keep_link(place, made, files) == place
    assert place.readlink() == made
    assert loaded(one).certificate.holder == "master"


def test_a_link_by_way_of_itself_stays_and_files_that_are_no_links_are_kept(
    made: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run-tls"
    keep_link(place, made, None)
    assert keep_link(place, place / "master", None) == place
    assert loaded(place).certificate.holder == "master"
    own = tmp_path / "own-tls"
    shutil.copytree(made / "master", own)
    one = made / "reader"
    for folder, files in [(made, None), (None, (one / CA, one / CERTIFICATE, one / KEY))]:
        with pytest.raises(ConfigError, match="is no link, and may be the only copy of a key"):
            keep_link(own, folder, files)
    assert keep_link(own, None, None) == own
    assert loaded(own).certificate.holder == "master"


def test_certificates_that_have_gone_end_a_resumed_run_before_it_begins(made: Path, tmp_path: Path) -> None:
    place = tmp_path / "run-tls"
    keep_link(place, made, None)
    made.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"in {made}, which are not there; give their folder by --tls DIR"):
        keep_link(place, None, None)
    assert keep_link(place, tmp_path / "elsewhere", None) == place


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
