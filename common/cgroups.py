"""Control groups of the process, in which a container's limits stand; cgroup v1 and v2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def control_groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folders of the control groups with a controller, from the leaf to the root; each one limits.

    Args:
        controller: `cpu` or `memory`.
        root: folder in place of /.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux, or no /proc
        return
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number != "0" and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # A container may see a path of its host, which the container's own mount lacks: the mount counts too.
        group = Path(*(part for part in path.split("/") if part not in ("", "..")))
        yield from (mount / folder for folder in (group, *group.parents))
