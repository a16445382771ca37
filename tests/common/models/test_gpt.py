"""common.models.builtin.gpt: against a plain implementation; causal; sizes; cuts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.config.models import GptOptions
from common.config.network import NetworkConfig
from common.errors import ConfigError
from common.models import builtin
from common.models.transformer import BASE

V, T = 11, 7


def build(options: GptOptions, context: int = T) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(*builtin.build("gpt", options, (context,), V))


def turn(x: Tensor) -> Tensor:
    """Rotary positions of (T, size) as a product of complex numbers."""
    size = x.shape[1]
    pairs = torch.complex(x[:, : size // 2], x[:, size // 2 :])
    angles = torch.arange(len(x))[:, None] / BASE ** (2 * torch.arange(size // 2) / size)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], 1)


def reference(state: dict[str, Tensor], tokens: Tensor, options: GptOptions) -> Tensor:
    """Compute logits (T, V) of a sequence (T,) position by position and head by head, from a state dict."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = state["0.tokens.weight"][tokens]
    learned = "0.positions.weight" in state
    if learned:
        x = x + state["0.positions.weight"][: len(tokens)]
    size = options.width // options.heads
    for block in range(1, options.blocks + 1):
        a = norm(x, f"{block}.norm1")
        qkv = a @ state[f"{block}.self_attn.in_proj_weight"].T + state[f"{block}.self_attn.in_proj_bias"]
        heads = []
        for head in range(options.heads):
            q, k, v = (
                qkv[:, part * options.width + head * size : part * options.width + (head + 1) * size]
                for part in range(3)
            )
            if not learned:
                q, k = turn(q), turn(k)
            rows = []
            for t in range(len(tokens)):
                weights = torch.softmax(k[: t + 1] @ q[t] / math.sqrt(size), 0)
                rows.append(weights @ v[: t + 1])
            heads.append(torch.stack(rows))
        x = x + linear(torch.cat(heads, 1), f"{block}.self_attn.out_proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.linear1")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + linear(hidden, f"{block}.linear2")
    last = options.blocks + 1
    return norm(x, f"{last}.0") @ state[f"{last}.1.weight"].T


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("heads", [1, 3])
def test_a_gpt_computes_what_a_plain_implementation_computes(positions: str, heads: int) -> None:
    options = GptOptions(width=12, heads=heads, blocks=2, positions=positions)
    network = build(options).double().eval()
    # Weights far from GPT-2's small ones, so that every term counts.
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randint(V, (3, T))
    state = {name: value.double() for name, value in network.state_dict().items()}
    for row, out in zip(tokens, network(tokens), strict=True):
        torch.testing.assert_close(out, reference(state, row, options), rtol=1e-5, atol=1e-5)


def test_torchs_own_encoder_layers_load_the_blocks_and_compute_alike() -> None:
    options = GptOptions(width=12, heads=3, blocks=2)
    network = build(options).eval()
    x = torch.randn(2, T, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    for block in list(network)[1:-1]:
        plain = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True).eval()
        plain.load_state_dict(block.state_dict())
        torch.testing.assert_close(block(x), plain(x, src_mask=mask))


@hypothesis_settings(max_examples=20)
@given(st.integers(0, T - 2), st.sampled_from(["learned", "rotary"]))
def test_no_output_depends_on_a_later_token(position: int, positions: str) -> None:
    network = build(GptOptions(width=8, heads=2, blocks=2, positions=positions)).eval()
    tokens = torch.randint(V, (2, T))
    changed = tokens.clone()
    changed[:, position + 1 :] = (changed[:, position + 1 :] + 1) % V
    before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[:, : position + 1], after[:, : position + 1])
    assert not torch.allclose(before[:, position + 1], after[:, position + 1])


def test_a_shorter_sequence_gives_the_first_outputs_of_a_longer_one() -> None:
    for positions in ("learned", "rotary"):
        network = build(GptOptions(width=8, heads=2, blocks=1, positions=positions)).eval()
        tokens = torch.randint(V, (2, T))
        torch.testing.assert_close(network(tokens[:, :3]), network(tokens)[:, :3])


def test_gpt_2_has_its_size() -> None:
    """GPT-2 small: 124,439,808 parameters, and an untied head of 50,257 x 768."""
    options = GptOptions(width=768, heads=12, blocks=12)
    with torch.device("meta"):
        units = builtin.build("gpt", options, (1024,), 50257)
    assert len(units) == options.units
    assert sum(p.numel() for unit in units for p in unit.parameters()) == 124_439_808 + 50257 * 768
    rotary = builtin.build("gpt", GptOptions(width=8, heads=2, blocks=1, positions="rotary"), (T,), V)
    learned = builtin.build("gpt", GptOptions(width=8, heads=2, blocks=1), (T,), V)
    sizes = [sum(p.numel() for unit in units for p in unit.parameters()) for units in (learned, rotary)]
    assert sizes[0] - sizes[1] == T * 8
    assert not next(iter(rotary[1].buffers())).requires_grad
    assert not [name for name in nn.Sequential(*rotary).state_dict() if "rotation" in name]


def test_weights_begin_as_gpt_2s() -> None:
    state = build(GptOptions(width=128, heads=4, blocks=8)).state_dict()
    residual = 0.02 / math.sqrt(16)
    for name, expected in (
        ("0.tokens.weight", 0.02),
        ("0.positions.weight", 0.02),
        ("3.self_attn.in_proj_weight", 0.02),
        ("3.self_attn.out_proj.weight", residual),
        ("3.linear1.weight", 0.02),
        ("3.linear2.weight", residual),
        ("9.1.weight", 0.02),
    ):
        assert float(state[name].std()) == pytest.approx(expected, rel=0.06), name
    assert not any(state[name].any() for name in state if name.endswith("bias"))


def test_the_first_loss_is_nearly_that_of_equal_odds() -> None:
    network = build(GptOptions(width=64, heads=4, blocks=4)).eval()
    tokens = torch.randint(V, (64, T))
    loss = nn.functional.cross_entropy(network(tokens).flatten(0, 1), tokens.flatten())
    assert float(loss.detach()) == pytest.approx(math.log(V), abs=0.1)


def test_dropout_acts_in_training_alone() -> None:
    network = build(GptOptions(width=32, heads=2, blocks=1, dropout=0.5))
    tokens = torch.randint(V, (4, T))
    assert not torch.equal(network(tokens), network(tokens))
    network.eval()
    assert torch.equal(network(tokens), network(tokens))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": 10, "heads": 4}, "heads: 4 does not divide width = 10; give a divisor"),
        (
            {"width": 12, "heads": 4, "positions": "rotary"},
            "heads: rotary positions turn pairs of a head's numbers, but a head of width 12 / 4 has 3",
        ),
        ({"blocks": 0}, "blocks: 0 is too small"),
        ({"dropout": 1.0}, "dropout: 1.0 is too large"),
        ({"positions": "learnd"}, 'positions: "learnd" is not one of learned, rotary'),
    ],
)
def test_options_that_no_gpt_has_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^network.options.{told}"):
        NetworkConfig("gpt", options)
