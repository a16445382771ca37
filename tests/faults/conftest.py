"""Real processes, as in tests/integration: what is left behind fails the test."""

from __future__ import annotations

from tests.integration.conftest import by_hand, cli

__all__ = ["by_hand", "cli"]
