"""Keyring for the tests of the master."""

from __future__ import annotations

from master.keyring import Keyring

KEYRING = Keyring(b"key")
