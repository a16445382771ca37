"""Check of this machine's certificate: files, authority, end, roles, and who can read the key."""

from __future__ import annotations

import ssl
import time
from typing import Any

from common.errors import LayerwiseError
from common.net.access import Role, role_uri, roles_of
from common.net.identity import Identity, find_identity
from deploy.doctor.findings import Verdict, failed, ok, warning
from deploy.doctor.setup import Setup

# A certificate that ends sooner should be renewed.
SOON_DAYS = 30
_DAY = 86400.0
_NEW_AUTHORITY = "make a new authority, and trust both for a while"
_RENEW = "have the authority renew it: `layerwise certificates DIR --renew`"


def has_certificates(setup: Setup) -> bool:
    """Whether a set-up has certificates."""
    return setup.tls is not None or (setup.config is not None and setup.config.security.files is not None)


def examine_certificates(setup: Setup) -> Verdict:
    """Load the certificate as a process does, and look at its end, its roles and the key's file."""
    try:
        identity = find_identity(setup.tls, setup.config.security.files if setup.config else None)
    except LayerwiseError as error:
        return failed(str(error), "mend the files, or have the authority make new ones")
    assert identity is not None
    own = identity.certificate
    roles = roles_of(own, setup.config.run.name if setup.config else None)
    days, authority = (own.ends - time.time()) / _DAY, _days_of_authorities(identity)
    words = " and ".join(role.value for role in Role if role in roles) or "none"
    found = f"{own.holder}: roles {words}, ends in {days:.0f} days; its authority in {authority:.0f}"
    if not roles:
        return failed(found, f"give a certificate with a name such as {role_uri(Role.SLAVE)}")
    if setup.master and Role.SLAVE not in roles:
        return warning(found, f"a slave needs the name {role_uri(Role.SLAVE)}")
    if identity.files.key.stat().st_mode & 0o077:
        return warning(f"{found}; others may read {identity.files.key}", f"chmod 600 {identity.files.key}")
    if min(days, authority) < SOON_DAYS:
        return warning(found, _RENEW if days <= authority else _NEW_AUTHORITY)
    return ok(found)


def _days_of_authorities(identity: Identity) -> float:
    """Return the days until the first trusted authority ends."""
    found: list[Any] = identity.pages().get_ca_certs()
    left = ((ssl.cert_time_to_seconds(each["notAfter"]) - time.time()) / _DAY for each in found)
    return min(left, default=0.0)
