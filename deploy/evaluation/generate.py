"""`layerwise generate`: sample text from the network of a finished language run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import strict_json
from common.config.user_code import format_error
from common.errors import ConfigError
from common.models.flow import list_units
from common.models.recurrent import Unrolled
from common.output import divert_output
from common.text import answer
from deploy.evaluation.finished import SpeakingRun, load_speaking


@dataclass(frozen=True)
class Sampling:
    """Choice of the next token.

    Attributes:
        temperature: divisor of the logits, finite; 0 takes the likeliest token.
        top_k: number of likeliest tokens to choose from; None: all.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature):
            raise ConfigError(f"--temperature: {self.temperature} is no finite number; give 1.0, say")


def generate(
    path: Path,
    prompt: str,
    count: int,
    sampling: Sampling,
    as_json: bool,
    code: Path | None,
) -> int:
    """Print the prompt and `count` sampled tokens after it, and return the exit code.

    Raises:
        ConfigError: the directory has no language run, or the prompt no tokens.
    """
    with divert_output():
        text = _continue(load_speaking(path, code), prompt, count, sampling)
    if as_json:
        answer(strict_json.encode({"prompt": prompt, "text": text, "tokens": count, "seed": sampling.seed}))
    else:
        for line in text.split("\n"):  # an answer is one line, whose control characters are escaped
            answer(line)
    return 0


def _continue(run: SpeakingRun, prompt: str, count: int, sampling: Sampling) -> str:
    try:
        tokens = run.vocabulary.encode(prompt).tolist()
    except ConfigError as error:
        raise ConfigError(f"--prompt: {error}") from None
    except UnicodeError:  # bytes of the command line that are no text
        raise ConfigError("--prompt: is no UTF-8 text; give characters") from None
    if not tokens:
        raise ConfigError("--prompt: holds no token; give at least one character")
    following = sample(run.network, tokens, count, run.context, run.vocabulary.size, sampling)
    return run.vocabulary.decode([*tokens, *following])


@torch.no_grad()
def sample(
    network: nn.Module,
    tokens: Sequence[int],
    count: int,
    context: int | None,
    size: int,
    sampling: Sampling,
) -> Iterator[int]:
    """Yield `count` tokens that follow `tokens`, each drawn from the network's odds after the tokens before.

    Args:
        network: maps (1, T) int64 to logits (1, T, V), in evaluation mode.
        tokens: the beginning, at least one.
        count: number of tokens to draw.
        context: largest T, so that the odds depend on the last T tokens; None: the network carries a state,
            and the odds depend on all tokens.
        size: V.
        sampling: choice of each token.

    Raises:
        ConfigError: the network gives no finite logits for so many tokens.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    compute = network if context else Unrolled(list_units(network))
    window = list(tokens[-context:] if context else tokens)
    for _ in range(count):
        token = choose(_logits(compute, window, size), sampling, generator)
        window = [*window, token][-context:] if context else [token]
        yield token


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token from logits (V,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    # The likeliest is at 0, and in float64 no temperature is 0: a quotient is at most infinitely unlikely.
    odds = torch.softmax((logits - logits.max()).double() / sampling.temperature, 0)
    return int(torch.multinomial(odds, 1, generator=generator))


def _logits(network: Callable[[Tensor], Any], window: list[int], size: int) -> Tensor:
    """Return the logits (V,) of the token after a window."""
    due = (1, len(window), size)
    try:
        logits = network(torch.tensor([window]))
    except (Exception, SystemExit) as error:  # of a user's unit
        raise ConfigError(
            f"network.model: cannot take {len(window)} tokens ({format_error(error)}); give a longer --prompt"
        ) from error
    if tuple(logits.shape) != due:
        raise ConfigError(
            f"network.model: gives {tuple(logits.shape)} for {len(window)} tokens, not {due}: the run has "
            'learned no next token; give a run of task.kind = "language"'
        )
    last: Tensor = logits[0, -1]
    if not last.max().isfinite():  # a token of -infinity is one that never follows
        raise ConfigError(
            f"network.model: gives NaN or infinity for {len(window)} tokens: training has diverged; train "
            "anew with a smaller optimizer.learning_rate"
        )
    return last
