"""`python -m benchmarks [NAME...]`: runs the benchmarks named, or all of the short ones.

`python -m benchmarks NAME --OPTION...` hands options on to one of the long ones.
"""

from __future__ import annotations

import importlib
import sys

# Each is a module here with a `main`, and writes results/NAME.json.
BENCHMARKS = ("transfer", "apply", "durability", "vfbn")
# A quarter of an hour and more: they run only if they are named, and take options of their own.
LONG = ("faults", "soak")


def main(names: list[str]) -> int:
    """Run them one after the other; the exit code."""
    if names and names[0] in LONG:
        importlib.import_module(f"benchmarks.{names[0]}").main(names[1:])
        return 0
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        known = ", ".join((*BENCHMARKS, *LONG))
        print(f"{unknown[0]}: is no benchmark; there are {known}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
