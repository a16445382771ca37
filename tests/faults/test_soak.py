"""Memory stays flat: a short soak, with a rule that what grows with every batch breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import PROFILES, soak

SECONDS = 60.0
# A message of a batch that is kept, 64 KiB fifty times a second, would make 190.
MOST_MIB_A_MINUTE = 8.0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("profile", PROFILES)
def test_no_process_of_a_cluster_grows(profile: str, tmp_path: Path) -> None:
    found = soak(SECONDS, [f"cluster.profile={profile}"], tmp_path)
    print(found)
    assert found["batches"] > 0
    assert sorted(name.split()[0] for name in found["processes"]) == ["master", *4 * ["slave"], "train"]
    slopes = {name: each["mib_per_minute"] for name, each in found["processes"].items()}
    assert max(slopes.values()) < MOST_MIB_A_MINUTE, slopes
