"""`python -m benchmarks` runs all benchmarks without requirements; `... NAME [OPTIONS]` runs one."""

from __future__ import annotations

import importlib
import sys

from common.errors import ConfigError, LayerwiseError
from common.lifecycle import INTERRUPTED, heed_termination

# Each name is a module in this package with a `main`, and writes results/NAME.json.
PLAIN = ("transfer", "apply", "durability", "vfbn", "metrics", "rounding")
# Benchmarks whose `main` takes options, and their requirements.
ASKING = {
    "against": "needs an earlier checkout (--before FOLDER) and MNIST (--mnist FOLDER); ten minutes",
    "anatomy": "needs MNIST (--mnist FOLDER); two minutes",
    "cluster": "needs MNIST (--mnist FOLDER) or a text (--text FILE); an hour a network",
    "compiling": "needs a C++ compiler, and MNIST for its networks (--mnist FOLDER); seven minutes",
    "copying": "takes options, and ten minutes a method and seed",
    "crowd": "needs the costs that scale --costs has measured; takes two minutes",
    "depth": "needs a text (--text FILE) and a folder (--out DIR); two hours",
    "faults": "takes a quarter of an hour",
    "flight": "needs pyarrow (pip install pyarrow==26.0.0); twelve minutes",
    "links": "needs root and iproute2; MNIST for its errors (--mnist FOLDER); 12 minutes",
    "methods": "needs MNIST (--mnist FOLDER); two hours",
    "race": "needs MNIST (--mnist FOLDER) or a text (--text FILE), a folder (--out DIR), and hours",
    "scale": "takes four minutes",
    "seats": "takes four minutes",
    "soak": "takes ten minutes a profile",
    "spares": "takes six minutes",
    "staleness": "needs MNIST for its errors (--mnist FOLDER); half an hour",
    "stores": "needs the costs that scale --costs has measured; takes four minutes",
    "straggler": "needs MNIST (--mnist FOLDER); half an hour",
    "tls": "needs MNIST for its cluster (--mnist FOLDER); 25 minutes",
}


def main(arguments: list[str]) -> int:
    """Run the requested benchmarks, and return the exit code."""
    # A terminated benchmark removes its processes and files, as after an interrupt.
    heed_termination()
    try:
        return _run(arguments)
    except LayerwiseError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    name, *options = arguments or [""]
    if name in ("-h", "--help"):
        print(f"{__doc__}\n\nWithout requirements: {', '.join(PLAIN)}")
        print("\n".join(f"{each}: {needs}" for each, needs in ASKING.items()))
        return 0
    if name in ASKING:
        importlib.import_module(f"benchmarks.{name}").main(options)
        return 0
    if (name and name not in PLAIN) or options:
        problem = f"{name}: takes no options" if name in PLAIN else f"{name}: is not a benchmark"
        raise ConfigError(f"{problem}; choose one of {', '.join([*PLAIN, *ASKING])}")
    for each in [name] if name else PLAIN:
        print(f"== {each}", flush=True)
        importlib.import_module(f"benchmarks.{each}").main()
    for each, needs in {} if name else ASKING.items():
        print(f"skipped: {each}, which {needs}; python -m benchmarks {each} --help", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
