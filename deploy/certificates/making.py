"""Authority and certificates of a cluster, made with the package `cryptography`."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ConfigError, from_os_error
from common.net.access import Role, role_uri
from common.net.identity import CA, CERTIFICATE, KEY, MASTER_NAME
from deploy.certificates.folders import (
    AUTHORITY,
    DAYS,
    EVALUATOR,
    MASTER,
    OPERATOR,
    READER,
    is_slave,
    next_slave,
    slave_name,
    store_name,
)

AUTHORITY_DAYS = 3650
# Clocks of a cluster may differ by so much.
_EARLIER = datetime.timedelta(hours=1)
# Roles that may be added; a master has names of its machine, too.
_ADDED = tuple(role.value for role in Role if role is not Role.MASTER)
_NAME = re.compile(r"[\w-]+", re.ASCII)
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Wanted:
    """Certificate to be made.

    Attributes:
        name: of the folder; the common name.
        role: of the holder.
        hosts: names and addresses of the holder, for a process that listens.
        listens: whether others connect to the holder.
    """

    name: str
    role: Role
    hosts: tuple[str, ...] = ()
    listens: bool = False


def plan(masters: Sequence[str], slaves: int) -> list[Wanted]:
    """Plan the certificates of a cluster."""
    hosts = tuple(dict.fromkeys([*masters, *_LOCAL]))
    numbered = [_slave(slave_name(number)) for number in range(1, slaves + 1)]
    others = [(EVALUATOR, Role.EVALUATOR), (OPERATOR, Role.OPERATOR), (READER, Role.READER)]
    return [
        Wanted(MASTER, Role.MASTER, hosts, listens=True),
        *numbered,
        *(Wanted(name, role) for name, role in others),
    ]


def plan_more(folder: Path, slaves: int, holders: Iterable[str]) -> list[Wanted]:
    """Plan further certificates of a folder.

    Args:
        folder: of certificates; the numbers of slaves go on after the last.
        slaves: number of further slaves.
        holders: texts ROLE=NAME.

    Raises:
        ConfigError: a text has another form.
    """
    first = next_slave(folder)
    numbers = range(first, first + slaves)
    return [*(_slave(slave_name(number)) for number in numbers), *map(_holder, holders)]


def _slave(name: str) -> Wanted:
    return Wanted(name, Role.SLAVE, _LOCAL, listens=True)


def _store(name: str) -> Wanted:
    return Wanted(name, Role.STORE, _LOCAL, listens=True)


def _holder(text: str) -> Wanted:
    role, _, name = text.partition("=")
    if role not in _ADDED:
        raise ConfigError(f"--add {text}: has no role; give ROLE=NAME with a role of {', '.join(_ADDED)}")
    if not _NAME.fullmatch(name) or name == AUTHORITY:
        raise ConfigError(
            f"--add {text}: is no name of a folder; use letters, digits, hyphens and underscores, and "
            f"another name than {AUTHORITY}"
        )
    if role == Role.SLAVE.value:
        return _slave(name)
    if is_slave(name):
        raise ConfigError(f"--add {text}: names that begin like {slave_name(1)} are for slaves; give another")
    return _store(name) if role == Role.STORE.value else Wanted(name, Role(role))


class Authority:
    """Authority that signs certificates.

    Args:
        certificate: of the authority.
        key: of the authority.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def new(cls, now: datetime.datetime) -> Authority:
        """Make an authority that signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("layerwise authority")
        uses = _key_usage(signs=True)
        builder = (
            _builder(name, name, key, now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(uses, critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Load the authority in a folder.

        Raises:
            ConfigError: a file is missing, or is none of an authority.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
            key = serialization.load_pem_private_key((folder / KEY).read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{folder}: has no authority ({error}); give the folder of one") from None
        except OSError as error:
            raise from_os_error(error) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{folder / KEY}: is not the key of {folder / CA}; restore it from a copy")
        return cls(certificate, key)

    def save(self, folder: Path) -> None:
        """Write certificate and key into a new folder."""
        _write(folder, {CA: _pem(self.certificate), KEY: _pem_key(self._key)})

    def issue(self, wanted: Wanted, run: str | None, now: datetime.datetime, days: int) -> dict[str, bytes]:
        """Make a certificate and a key, in files by name."""
        names = [x509.UniformResourceIdentifier(role_uri(wanted.role, run))]
        hosts = [*([MASTER_NAME] if wanted.role is Role.MASTER else []), *wanted.hosts]
        ends = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if wanted.listens:
            ends.append(ExtendedKeyUsageOID.SERVER_AUTH)
        alternative = x509.SubjectAlternativeName([*names, *map(_host, hosts)])
        return self._sign(_name(wanted.name), alternative, x509.ExtendedKeyUsage(ends), now, days)

    def renew(self, old: x509.Certificate, now: datetime.datetime, days: int) -> dict[str, bytes]:
        """Make a certificate with the names of an old one, and a new key, in files by name.

        Raises:
            ConfigError: the old certificate has no names or uses.
        """
        try:
            names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uses = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound as error:
            raise ConfigError(
                f"a certificate of {old.subject.rfc4514_string()} cannot be renewed ({error}); make a new one"
            ) from None
        return self._sign(old.subject, names, uses, now, days)

    def _sign(
        self,
        subject: x509.Name,
        names: x509.SubjectAlternativeName,
        uses: x509.ExtendedKeyUsage,
        now: datetime.datetime,
        days: int,
    ) -> dict[str, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(subject, self.certificate.subject, key, now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(uses, critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(names, critical=False)
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return {CA: _pem(self.certificate), CERTIFICATE: _pem(signed), KEY: _pem_key(key)}


def make(folder: Path, wanted: Iterable[Wanted], run: str | None, days: int) -> list[Path]:
    """Make an authority, unless the folder has one, and the certificates; returns the new folders.

    New certificates come with the trust of those that are there.

    Raises:
        ConfigError: a folder exists already, or the authority cannot be used, or is missing beside
            certificates.
        OSError: a file cannot be written.
    """
    now, place = _now(), folder / AUTHORITY
    planned, present = list(wanted), _folders(folder)
    names = [each.name for each in planned]
    for name in names:
        if (folder / name).exists() or names.count(name) > 1:
            raise ConfigError(
                f"{folder / name}: exists, or is wanted twice, and is not overwritten; leave out --master to "
                "add to a folder, give another name or folder, or renew by --renew"
            )
    fresh = not place.exists()
    if fresh and present:
        raise ConfigError(
            f"{place}: is missing, and another authority would not be trusted by {present[0]}; put the "
            "authority's folder back for this command, or give another folder"
        )
    authority = Authority.new(now) if fresh else Authority.load(place)
    contents = [authority.issue(each, run, now, days) for each in planned]
    if present:
        trusted = _trusting(present[0] / CA, authority.certificate)
        contents = [{**files, CA: trusted} for files in contents]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if fresh:
        authority.save(place)
    for each, files in zip(planned, contents, strict=True):
        _write(folder / each.name, files)
    return [*([place] if fresh else []), *(folder / each.name for each in planned)]


def make_for_run(folder: Path, slaves: int, stores: int, run: str) -> None:
    """Make the certificates of a run's cluster alone, whole or not at all; the authority's key is deleted.

    Raises:
        ConfigError: the package for certificates is missing, or the name of the run cannot be in one.
        OSError: a file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as place:
        made = Path(place) / folder.name
        keepers = [Wanted(store_name(n), Role.STORE, _LOCAL, listens=True) for n in range(1, stores + 1)]
        make(made, [*plan([], slaves), *keepers], run, DAYS)
        shutil.rmtree(made / AUTHORITY)
        made.rename(folder)


def renew(folder: Path, days: int) -> list[Path]:
    """Replace every certificate and key in a folder of certificates; returns the folders.

    Authorities that are trusted stay so, and the one that signs is added where it is missing: while the
    authority changes, old certificates are still around.

    A process that reads between the replacements of key and certificate waits for the second.

    Raises:
        ConfigError: the folder has no authority or no certificates.
        OSError: a file cannot be written.
    """
    now, authority = _now(), Authority.load(folder / AUTHORITY)
    found = _folders(folder)
    if not found:
        raise ConfigError(f"{folder}: has no certificates; make some without --renew")
    for place in found:
        old = x509.load_pem_x509_certificate((place / CERTIFICATE).read_bytes())
        files = authority.renew(old, now, days)
        files[CA] = _trusting(place / CA, authority.certificate)
        for name, content in files.items():
            _write_file(place / f".{name}", content)
            (place / f".{name}").replace(place / name)
    return found


def _folders(folder: Path) -> list[Path]:
    """Return the folders of certificates in a folder."""
    return sorted(each.parent for each in folder.glob(f"*/{CERTIFICATE}"))


def _trusting(path: Path, authority: x509.Certificate) -> bytes:
    """Return a file of trusted authorities, with an authority added in front if it is not there."""
    old = path.read_bytes() if path.exists() else b""
    try:
        known = x509.load_pem_x509_certificates(old) if old else []
    except ValueError as error:
        raise ConfigError(
            f"{path}: has no certificate of an authority ({error}); restore it from a copy"
        ) from None
    return old if authority in known else _pem(authority) + old


def check_host(text: str) -> str:
    """Check the name or address of a master.

    Raises:
        ConfigError: the text is no host's.
    """
    try:
        _host(text)
    except ValueError:
        raise ConfigError(
            f"--master {text}: is no name and no address of a host; give one without a port, for example "
            "master.example.org or 10.0.0.1"
        ) from None
    return text


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.removesuffix(".").split(".")
    plain = all(label and label.replace("-", "").replace("_", "").isalnum() for label in labels)
    if not plain or not text.isascii() or len(text) > 253:
        raise ValueError(text)
    return x509.DNSName(text)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a new folder, for their owner alone."""
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        _write_file(folder / name, content)


def _write_file(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
