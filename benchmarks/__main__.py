"""`python -m benchmarks [NAME...]`: runs the benchmarks named, or all of them."""

from __future__ import annotations

import importlib
import sys

# Each is a module here with a `main`, and writes results/NAME.json.
BENCHMARKS = ("transfer", "apply", "durability", "vfbn", "metrics")


def main(names: list[str]) -> int:
    """Run them one after the other; the exit code."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"{unknown[0]}: is no benchmark; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
