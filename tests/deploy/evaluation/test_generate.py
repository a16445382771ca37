"""deploy.evaluation.generate: the draw of each next token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.data.vocabularies import Bytes, Characters, Vocabulary, Words
from common.errors import ConfigError
from deploy.evaluation.finished import SpeakingRun
from deploy.evaluation.generate import Sampling, _continue, choose, sample

V = 7


class Successor(nn.Module):
    """Logits that favour the successor of each token, and a record of the windows."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.windows: list[list[int]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.windows.append(tokens[0].tolist())
        return self.margin * nn.functional.one_hot((tokens + 1) % V, V).float()


def drawn(network: nn.Module, count: int = 20, context: int = 4, **options: float) -> list[int]:
    return list(sample(network, [2], count, context, V, Sampling(**options)))  # type: ignore[arg-type]


def test_at_temperature_zero_the_likeliest_token_follows() -> None:
    assert drawn(Successor(0.1), 8, temperature=0) == [3, 4, 5, 6, 0, 1, 2, 3]


def test_the_network_sees_the_last_context_tokens_alone() -> None:
    network = Successor(1.0)
    drawn(network, 6, context=3, temperature=0)
    assert network.windows == [[2], [2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6], [5, 6, 0]]
    network = Successor(1.0)
    list(sample(network, [0, 1, 2, 3, 4], 1, 3, V, Sampling()))
    assert network.windows == [[2, 3, 4]]


def test_equal_seeds_draw_equal_tokens_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (drawn(Successor(1.0), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), before)


def test_top_k_draws_from_the_k_likeliest_alone() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    generator = torch.Generator().manual_seed(0)
    draws = {choose(logits, Sampling(top_k=2), generator) for _ in range(200)}
    assert draws == {3, 4}
    assert {choose(logits, Sampling(top_k=50), generator) for _ in range(500)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("temperature", "odds"), [(1.0, 0.731), (0.5, 0.881), (2.0, 0.622)])
def test_a_temperature_divides_the_logits(temperature: float, odds: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 1.0])
    draws = [choose(logits, Sampling(temperature=temperature), generator) for _ in range(4000)]
    assert sum(draws) / len(draws) == pytest.approx(odds, abs=0.03)


def test_a_tiny_temperature_takes_the_likeliest_and_one_that_is_not_finite_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    tiny = Sampling(temperature=1e-300)
    assert {choose(torch.tensor([3.0, -1e30, 5.0]), tiny, generator) for _ in range(20)} == {2}
    for temperature in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"^--temperature: (nan|inf) is no finite number"):
            Sampling(temperature)


@pytest.mark.parametrize(
    ("vocabulary", "prompt", "told"),
    [
        (Bytes(), "", "holds no token"),
        (Words(["<unk>"]), " ", "holds no token"),
        (Characters("abc"), "a§", "the text holds '§', which the training text lacks"),
        (Bytes(), "a\udcff", "is no UTF-8 text"),
        (Characters("abc"), "a\udcff", "is no UTF-8 text"),
    ],
)
def test_a_prompt_without_tokens_is_refused(vocabulary: Vocabulary, prompt: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^--prompt: {told}"):
        _continue(SpeakingRun(Successor(1.0), 4, vocabulary), prompt, 1, Sampling())


def test_a_unit_that_fails_on_a_short_prompt_is_told_in_one_line() -> None:
    class Picky(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            raise IndexError(f"{tokens.shape[1]} is not 4")

    with pytest.raises(ConfigError, match=r"cannot take 1 tokens \(IndexError: 1 is not 4\)"):
        drawn(Picky())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_logits_that_are_not_finite_are_told_in_one_line(number: str, temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"^network.model: gives NaN or infinity for 1 tokens: .*; train"):
        drawn(Successor(float(number)), temperature=temperature)


def test_a_token_of_no_odds_at_all_is_never_drawn() -> None:
    class Silent(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.full((1, tokens.shape[1], V), -torch.inf).index_fill(2, torch.tensor([3, 5]), 0.0)

    assert set(drawn(Silent(), 40)) == {3, 5}


def test_a_network_that_gives_no_logits_of_each_token_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gives \(1, 3\) for 1 tokens, not \(1, 1, 7\): .*language"):
        drawn(nn.Sequential(nn.Embedding(V, 3), nn.Flatten()))


def test_a_network_that_takes_whole_windows_alone_asks_for_a_longer_prompt() -> None:
    network = nn.Sequential(nn.Embedding(V, 3), nn.Flatten(), nn.Linear(12, V), nn.Unflatten(1, (1, V)))
    with pytest.raises(ConfigError, match=r"cannot take 1 tokens .*longer --prompt"):
        drawn(network)
