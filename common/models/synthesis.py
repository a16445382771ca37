"""First lesson of M, or of a head, before a run: a user's loss or v may lack derivatives that it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from common import synthesizers
from common.config.decoupling import count_parts
from common.config.sections import OWN_V, Config
from common.errors import ConfigError
from common.signals.packing import Packing
from common.signals.values import Signal, form_of
from common.synthesizers import BuildV, Virtual
from common.tasks import Task


def check_lesson(config: Config, task: Task, v: BuildV | None, h: Signal, y: Tensor) -> None:
    """Teach a layer's M or head once.

    Args:
        config: of the run, resolved.
        task: of the run.
        v: builds the user's v, if there is one.
        h: output of the layer for a batch, (B, ...).
        y: targets of the batch, (B, ...).

    Raises:
        ConfigError: the task's loss or the user's v has no derivative that the lesson takes, or the user's v
            gives no finite one.
    """
    decoupling, packing = config.decoupling, Packing(form_of(h))
    if not (decoupling.row.synthesizes or decoupling.row.supervises):
        return
    packed = packing.pack(h)
    module = synthesizers.initial(config, 1, packing.shape, task, v).to(packed.device)
    try:
        # A lesson is in parts, of which the last is the smallest.
        parts = count_parts(config.lesson_steps, len(packed))
        part, labels = packed.tensor_split(parts)[-1], y.tensor_split(parts)[-1]
        if decoupling.row.supervises:
            assert isinstance(module, Virtual)
            delta, _ = module.supervise(part, labels)
        else:
            delta = module.gradient(packed, y)
            module.learn(part, labels, delta.tensor_split(parts)[-1])
    except ConfigError:  # of the task or of the user's v, which name their own keys
        raise
    except (Exception, SystemExit) as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        if decoupling.own_v is not None:
            raise ConfigError(f"{OWN_V}: {decoupling.own_v}: fails at the first batch: {line}") from error
        raise ConfigError(
            f"task.kind: {config.task.kind}: fails as the loss of {_name(config)}, which takes its second "
            f"derivative: {line}; compute the loss by torch's own operations, or choose another "
            "decoupling.unlock or decoupling.gradient"
        ) from error
    gradients = [delta, *(each.grad for each in module.parameters() if each.grad is not None)]
    if decoupling.own_v is not None and not all(bool(torch.isfinite(each).all()) for each in gradients):
        raise ConfigError(
            f"{OWN_V}: {decoupling.own_v}: gives a gradient with NaN or infinity at the first batch; "
            "correct the module"
        )


def _name(config: Config) -> str:
    row = config.decoupling.row
    return (
        "a head of unlock local"
        if row.supervises
        else f'decoupling.gradient = "{config.decoupling.gradient}"'
    )
