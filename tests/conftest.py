"""Hypothesis without a clock: a busy machine, which is slow, fails no test."""

from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Masters note their state directories here, and not in the home of whoever tests; child processes inherit it.
_STATE = tempfile.TemporaryDirectory(prefix="layerwise-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name
