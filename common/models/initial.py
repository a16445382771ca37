"""Weights that training begins from: `network.initial`, a state dict of the plain network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config.network import find_initial
from common.config.sections import Config
from common.config.user_code import format_error
from common.data.pointers import explain_pointer, is_pointer
from common.errors import ConfigError


def load_initial(config: Config, units: list[nn.Module], code: Path | None) -> None:
    """Give the units the weights of `network.initial`; without that key the units stay as they are.

    Args:
        config: of the run.
        units: of the network, in plain form nn.Sequential(*units).
        code: folder in which the file is searched first, by its bare name.

    Raises:
        ConfigError: the file is missing, holds no state dict, or one of another network.
    """
    if config.network.initial is None:
        return
    path = find_initial(config.network.initial, code)
    plain = nn.Sequential(*units)
    state = _read(path)
    _check_fit(path, state, plain.state_dict())
    plain.load_state_dict(dict(state))


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict; nothing in the file is run.

    Raises:
        ConfigError: the file is torn, a pointer, or holds something else.
    """
    with path.open("rb") as file:
        if is_pointer(file.read(1024)):
            raise ConfigError(explain_pointer(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own text advises to read such a file with weights_only=False, which runs what it holds.
        refused = "weights_only" in str(error)
        reason = "it is torn, or holds more than tensors" if refused else format_error(error)
        raise ConfigError(
            f"network.initial: {path}: cannot be read: {reason}; give a state dict, saved by "
            "safetensors or by torch.save(network.state_dict(), FILE)"
        ) from None
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()
    ):
        raise ConfigError(
            f"network.initial: {path}: holds a {type(state).__name__} that is no state dict; save "
            "network.state_dict()"
        )
    return state


def _check_fit(path: Path, state: Mapping[str, Tensor], due: Mapping[str, Tensor]) -> None:
    """Check that a state dict has exactly the network's tensors, in their shapes, dense, real and finite.

    Raises:
        ConfigError: a tensor is missing, too many, of another shape, of another kind, or not finite.
    """
    advice = "give the weights of this network, or change network.model and network.options to theirs"
    for names, fault in ((due.keys() - state.keys(), "lacks"), (state.keys() - due.keys(), "has besides")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ConfigError(f"network.initial: {path}: {fault} {min(names)}{more}; {advice}")
    for name, tensor in due.items():
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            raise ConfigError(f"network.initial: {path}: {name} is {shapes}; {advice}")
        if not _is_plain(state[name]):
            kind = f"{state[name].dtype} in layout {state[name].layout} on {state[name].device}"
            raise ConfigError(
                f"network.initial: {path}: {name} is {kind}; save dense tensors of real numbers"
            )
        if not torch.isfinite(state[name]).all():
            raise ConfigError(
                f"network.initial: {path}: {name} has numbers that are not finite; give weights from before "
                "the run diverged"
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds real numbers, one by one: not sparse, quantized, complex or without content."""
    return (
        tensor.layout == torch.strided
        and not (tensor.is_quantized or tensor.is_complex())
        and tensor.device.type == "cpu"
    )
