"""`layerwise generate`: sample text from the network of a finished language run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common import strict_json
from common.errors import ConfigError
from common.output import divert_output
from common.text import answer
from deploy.evaluation.finished import SpeakingRun, load_speaking


@dataclass(frozen=True)
class Sampling:
    """Choice of the next token.

    Attributes:
        temperature: divisor of the logits; 0 takes the likeliest token.
        top_k: number of likeliest tokens to choose from; None: all.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0


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
    if not tokens:
        raise ConfigError("--prompt: holds no token; give at least one character")
    following = sample(run.network, tokens, count, run.context, run.vocabulary.size, sampling)
    return run.vocabulary.decode([*tokens, *following])


@torch.no_grad()
def sample(
    network: nn.Module, tokens: Sequence[int], count: int, context: int, size: int, sampling: Sampling
) -> Iterator[int]:
    """Yield `count` tokens that follow `tokens`, each drawn from the network's odds after the last `context`.

    Args:
        network: maps (1, T) int64 to logits (1, T, V), in evaluation mode.
        tokens: the beginning, at least one.
        count: number of tokens to draw.
        context: largest T.
        size: V.
        sampling: choice of each token.

    Raises:
        ConfigError: the network gives no logits for so many tokens.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    window = list(tokens)
    for _ in range(count):
        del window[:-context]
        window.append(choose(_logits(network, window, size), sampling, generator))
        yield window[-1]


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token from logits (V,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return int(torch.multinomial(torch.softmax(logits / sampling.temperature, 0), 1, generator=generator))


def _logits(network: nn.Module, window: list[int], size: int) -> Tensor:
    """Return the logits (V,) of the token after a window."""
    due = (1, len(window), size)
    try:
        logits = network(torch.tensor([window]))
    except RuntimeError as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"network.model: cannot take {len(window)} tokens ({text}); give a longer --prompt"
        ) from None
    if tuple(logits.shape) != due:
        raise ConfigError(
            f"network.model: gives {tuple(logits.shape)} for {len(window)} tokens, not {due}: the run has "
            'learned no next token; give a run of task.kind = "language"'
        )
    last: Tensor = logits[0, -1]
    return last
