"""`python -m benchmarks`: runs every benchmark that needs nothing; `... NAME [OPTIONS]`: the one named."""

from __future__ import annotations

import importlib
import signal
import sys

from common.errors import ConfigError, LayerwiseError
from common.lifecycle import INTERRUPTED

# Each is a module here with a `main`, and writes results/NAME.json.
PLAIN = ("transfer", "apply", "durability", "vfbn", "metrics", "rounding")
# Those whose `main` takes options, and what they need.
ASKING = {
    "against": "needs an earlier checkout (--before FOLDER) and MNIST (--mnist FOLDER); ten minutes",
    "anatomy": "needs MNIST (--mnist FOLDER); two minutes",
    "cluster": "needs MNIST (--mnist FOLDER), on links root and iproute2; an hour a network",
    "compiling": "needs a C++ compiler, and MNIST for its networks (--mnist FOLDER); seven minutes",
    "faults": "takes a quarter of an hour",
    "links": "needs root and iproute2; MNIST for its errors (--mnist FOLDER); 12 minutes",
    "methods": "needs MNIST (--mnist FOLDER); two hours",
    "scale": "takes three minutes",
    "soak": "takes ten minutes a profile",
    "staleness": "needs MNIST for its errors (--mnist FOLDER); half an hour",
    "straggler": "needs MNIST (--mnist FOLDER); half an hour",
}


def main(arguments: list[str]) -> int:
    """Run what is asked for; the exit code."""
    # Who is asked to end puts away what it has made, as after an interrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(arguments)
    except LayerwiseError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    name, *options = arguments or [""]
    if name in ASKING:
        importlib.import_module(f"benchmarks.{name}").main(options)
        return 0
    if (name and name not in PLAIN) or options:
        wrong = f"{name}: takes no options" if name in PLAIN else f"{name}: is no benchmark"
        raise ConfigError(f"{wrong}; there are {', '.join([*PLAIN, *ASKING])}")
    for each in [name] if name else PLAIN:
        print(f"== {each}", flush=True)
        importlib.import_module(f"benchmarks.{each}").main()
    for each, needs in {} if name else ASKING.items():
        print(f"left out: {each}, which {needs}; python -m benchmarks {each} --help", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
