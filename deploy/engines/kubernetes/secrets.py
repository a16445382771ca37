"""Certificates of a run in Kubernetes: those of a folder, or those that cert-manager makes and renews."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from common.errors import ConfigError
from common.net.access import Role, role_uri
from common.net.identity import CA, CERTIFICATE, KEY, MASTER_NAME
from deploy.certificates.folders import folder_of, slave_name, store_name
from deploy.engines.kubernetes.names import EVALUATOR, MASTER, SLAVE, STORE, Object, Order

MOUNT = "/tls"
# Keys of a secret, as cert-manager names them, and the files that our processes read.
FILES = {"ca.crt": CA, "tls.crt": CERTIFICATE, "tls.key": KEY}
_API = "cert-manager.io/v1"
_ROLES = {MASTER: Role.MASTER, STORE: Role.STORE, SLAVE: Role.SLAVE, EVALUATOR: Role.EVALUATOR}
# Processes of a kind share the certificate of the first.
_FOLDERS = {SLAVE: slave_name(1), STORE: store_name(1)}


def build_secrets(order: Order) -> Iterator[Object]:
    """Build a secret for the processes of each kind, or what makes cert-manager fill it.

    Raises:
        ConfigError: a file of the folder cannot be read.
    """
    if order.wishes.tls is None:
        yield from _ask_cert_manager(order)
        return
    for component in _roles(order):
        folder = folder_of(order.wishes.tls, _FOLDERS.get(component, component))
        content = {key: _read(folder / name) for key, name in FILES.items()}
        yield order.thing("v1", "Secret", f"{component}-tls", type="kubernetes.io/tls", data=content)


def _roles(order: Order) -> dict[str, Role]:
    """Return the roles of the run's components."""
    return {component: role for component, role in _ROLES.items() if component != STORE or order.plan.stores}


def _read(file: Path) -> str:
    try:
        return base64.b64encode(file.read_bytes()).decode("ascii")
    except OSError as error:
        raise ConfigError(
            f"--tls: {file}: {error.strerror}; give a folder that `layerwise certificates` has made"
        ) from None


def _ask_cert_manager(order: Order) -> Iterator[Object]:
    """Build an authority of the run alone, and a certificate of each role."""
    yield order.thing(_API, "Issuer", "self-signed", spec={"selfSigned": {}})
    key = {"algorithm": "ECDSA", "size": 256}
    yield order.thing(
        _API,
        "Certificate",
        "authority",
        spec={
            "secretName": f"{order.name}-authority",
            "commonName": f"{order.name} authority",
            "isCA": True,
            "duration": "87600h",
            "privateKey": key,
            "issuerRef": {"name": f"{order.name}-self-signed", "kind": "Issuer"},
        },
    )
    yield order.thing(_API, "Issuer", "authority", spec={"ca": {"secretName": f"{order.name}-authority"}})
    for component, role in _roles(order).items():
        names = {"dnsNames": [MASTER_NAME, order.master]} if component == MASTER else {}
        ends = ["client auth"] if component == EVALUATOR else ["client auth", "server auth"]
        yield order.thing(
            _API,
            "Certificate",
            component,
            spec={
                "secretName": f"{order.name}-{component}-tls",
                "commonName": f"{order.name}-{component}",
                "uris": [role_uri(role, order.plan.config.run.name)],
                **names,
                "usages": ["digital signature", *ends],
                "privateKey": {**key, "rotationPolicy": "Always"},
                "issuerRef": {"name": f"{order.name}-authority", "kind": "Issuer"},
            },
        )
