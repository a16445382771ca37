"""The `layerwise` command; a subcommand's module is imported when it is called, so help answers at once."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import click

from common.errors import ConfigError, LayerwiseError, from_os_error
from common.lifecycle import INTERRUPTED, heed_termination, raise_file_limit
from common.observe.streams import StandardStreams
from common.output import end_output
from common.text import say

COMMANDS: Mapping[str, tuple[str, str]] = {
    "train": ("deploy.commands", "Train a network on a whole cluster of processes, here or on Ray."),
    "master": ("master.cli", "Keep a run's parameters and serve them to its slaves."),
    "store": ("master.storing.cli", "Keep a part of a run's parameters, in the master's place."),
    "slave": ("slave.cli", "Train one layer of a run, which the master assigns."),
    "simulate": ("deploy.commands", "Predict speed and staleness of N slaves, without a cluster."),
    "compare": ("deploy.commands", "Compare methods on equal terms."),
    "analyze": ("deploy.commands", "Plot what the networks of runs have learned, layer by layer."),
    "status": ("deploy.live", "Show the status of a live run."),
    "evaluate": ("deploy.commands", "Measure the test error of a finished or live run."),
    "export": ("deploy.commands", "Write the plain network's weights for torch."),
    "generate": ("deploy.commands", "Sample text from a finished language run."),
    "snapshot": ("deploy.live", "Take a snapshot of a live run, or list its snapshots."),
    "rollback": ("deploy.live", "Roll a live run back to a snapshot."),
    "resize": ("deploy.live", "Change the number of replicas of a live run."),
    "config": ("deploy.commands", "Print every configuration key, its default and its meaning."),
    "explain": ("deploy.guidance.cli", "Explain a configuration key: meaning, default, values, page."),
    "init": ("deploy.guidance.cli", "Write a configuration, a network and data to begin from."),
    "runs": ("deploy.guidance.cli", "List the runs of this machine."),
    "open": ("deploy.guidance.cli", "Open the page of a run in the browser."),
    "completion": ("deploy.guidance.cli", "Print the completion script of a shell."),
    "certificates": ("deploy.certificates.cli", "Make an authority and certificates for TLS."),
    "manifest": ("deploy.engines.cli", "Print what Slurm or Kubernetes takes to place a run."),
    "doctor": ("deploy.doctor.cli", "Check this machine and a set-up, each finding with its fix."),
}


EXPLAIN = "layerwise explain"
# Pages about the errors that no key explains, by exit code.
ERROR_PAGES = {
    2: "docs/errors.md#2-usage-or-configuration",
    3: "docs/errors.md#3-cannot-reach-or-refused",
    4: "docs/errors.md#4-the-run-failed",
}
_MORE = " says more)"
# In an installed wheel the packages are parts of `layerwise`.
_HOME = str(__package__).removesuffix("deploy")


class _Lazy(click.Group):
    """Command group that imports a subcommand's module when it is called, not when commands are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(_import(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback with an error.")
@click.version_option(package_name="layerwise")
def cli(debug: bool) -> None:
    """Train a neural network layer by layer, asynchronously, over a cluster.

    Start with `layerwise train`: it learns handwritten digits on this machine in under a minute.

    Exit codes: 0 done; 2 bad usage or configuration; 3 cannot reach or refused;
    4 the run failed; 130 interrupted.
    """


def _import(module: str) -> Any:
    """Import a module of the project by its name in the repository."""
    return importlib.import_module(_HOME + module)


def _check_packages() -> None:
    """Check that our packages come from one folder: another project may also have a package `common`.

    Raises:
        LayerwiseError: a package of the same name shadows one of ours.
    """
    homes = {}
    for name in ("common", "master", "slave", "deploy", "protos"):
        module: Any = _import(name)
        homes[name] = module.__path__[0].rpartition("/")[0]
    if len(set(homes.values())) != 1:
        where = ", ".join(f"{name} in {home}" for name, home in homes.items())
        raise LayerwiseError(
            f"other packages of these names are in the way ({where}); use a fresh environment"
        )


def main() -> None:
    """Run the command and exit with the documented code."""
    streams = StandardStreams.install()
    heed_termination()
    code = streams.close(run(sys.argv[1:]))
    end_output()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command and return the exit code; every error is a line on standard error."""
    try:
        _check_packages()
        raise_file_limit()
        result = cli.main(arguments, prog_name="layerwise", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        for line in text.getvalue().expandtabs().rstrip("\n").split("\n"):
            say(line)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (LayerwiseError, OSError) as error:
        if "--debug" in arguments:
            raise
        known = from_os_error(error) if isinstance(error, OSError) else error
        say(f"layerwise: {_point_to_help(known)}")
        return known.exit_code


def _point_to_help(error: LayerwiseError) -> str:
    """Return an error's text with a pointer: the command that explains a refused key, or a page."""
    text, pointer = str(error), ERROR_PAGES[error.exit_code]
    if text.endswith(_MORE):  # the last line of a process that has ended with an error
        return text
    if isinstance(error, ConfigError):
        from deploy.guidance.explaining import find_key

        if EXPLAIN in text:
            return text
        # An unknown key's message names the nearest one, which a person may know already.
        key = None if "unknown" in text or text.startswith("explain ") else find_key(text)
        pointer = f"`{EXPLAIN} {key}`" if key else pointer
    return f"{text} ({pointer}{_MORE}"


if __name__ == "__main__":
    main()
