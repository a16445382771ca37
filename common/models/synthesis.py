"""First lesson of M, or of a head, before a run: a user's loss may lack the derivatives that it takes."""

from __future__ import annotations

from torch import Tensor

from common import synthesizers
from common.config.sections import Config
from common.errors import ConfigError
from common.signals.packing import Packing
from common.signals.values import Signal, form_of
from common.synthesizers import VirtualForward
from common.tasks import Task


def check_lesson(config: Config, task: Task, h: Signal, y: Tensor) -> None:
    """Teach the lowest layer's M or head once.

    Args:
        config: of the run, resolved.
        task: of the run.
        h: output of the layer for a batch, (B, ...).
        y: targets of the batch, (B, ...).

    Raises:
        ConfigError: the task's loss has no derivative that the lesson takes.
    """
    decoupling, packing = config.decoupling, Packing(form_of(h))
    if not (decoupling.row.synthesizes or decoupling.row.supervises):
        return
    packed = packing.pack(h)
    module = synthesizers.initial(config, 1, packing.shape, task).to(packed.device)
    try:
        if decoupling.row.supervises:
            assert isinstance(module, VirtualForward)
            module.supervise(packed, y)
        else:
            module.learn(packed, y, module.gradient(packed, y))
    except ConfigError:  # of the task, which names its own key
        raise
    except (Exception, SystemExit) as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ConfigError(
            f"task.kind: {config.task.kind}: fails as the loss of {_name(config)}, which takes its second "
            f"derivative: {line}; compute the loss by torch's own operations, or choose another "
            "decoupling.unlock or decoupling.gradient"
        ) from error


def _name(config: Config) -> str:
    row = config.decoupling.row
    return (
        "a head of unlock local"
        if row.supervises
        else f'decoupling.gradient = "{config.decoupling.gradient}"'
    )
