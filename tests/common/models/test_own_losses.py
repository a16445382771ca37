"""Units with a loss or metrics of their own: refusals before a run, the counted costs, and the cuts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.models import costs
from common.models.network import build as build_network
from common.models.own_losses import check_metrics, has_losses
from common.models.rehearsal import rehearse
from common.signals.forms import SignalForm
from tests.classifying import classifying
from tests.deploy.runs import loaded
from tests.integration.processes import ROOT

OWN = """
import torch
from torch import nn
from torch.nn import functional as F

class Deep(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.head = nn.Linear(64, 64), nn.Linear(64, classes)
    def forward(self, x):
        return self.body(x)
    def losses(self, h, y):
        each = F.cross_entropy(self.head(h), y, reduction="none")
        return {losses}
    def metrics(self, h, y):
        return {metrics}

def build(classes):
    return [nn.Flatten(), {unit}, nn.Linear(64, classes)]
"""
GOOD = {"losses": "each", "metrics": "{'wrong': self.head(h).argmax(1) != y}", "unit": "Deep(classes)"}


def settings(folder: Path, **changes: str) -> list[str]:
    (folder / "own.py").write_text(OWN.format(**GOOD | changes))
    return [f"network.model={folder}/own.py:build", "network.cuts=[2]", "run.batch_size=16"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"losses": "each.mean()"},
            "gives its own loss as float32 () for 16 examples; losses(h, y) must give",
        ),
        ({"losses": "each[:3]"}, "gives its own loss as float32 (3,) for 16 examples"),
        ({"losses": "each.unsqueeze(1)"}, "gives its own loss as float32 (16, 1) for 16 examples"),
        ({"losses": "each.long()"}, "gives its own loss as int64 (16,) for 16 examples"),
        ({"losses": "None"}, "gives its own loss as a NoneType"),
        ({"losses": "each / 0"}, "gives an own loss with NaN or infinity at the first batch"),
        ({"losses": "(each * 0).sqrt()"}, "gives a gradient with NaN or infinity"),
        ({"losses": "each.detach()"}, "gives an own loss without a gradient"),
        ({"losses": "each.missing"}, "fails in losses(h, y): 'Tensor' object has no attribute 'missing'"),
        ({"losses": "each + 0 * h.detach().mul_(2).sum()"}, "changes h in place in losses(h, y)"),
        ({"metrics": "each"}, "fails in metrics(h, y): name 'each' is not defined"),
        ({"metrics": "h.mean()"}, "gives float32 () as its metrics; metrics(h, y) must give a dict"),
        ({"metrics": "{'wrong': h.mean()}"}, 'gives the metric "wrong" as float32 () for 16 examples'),
        ({"metrics": "{'loss': h.mean(1)}"}, "names a metric 'loss'; give letters, digits"),
        ({"metrics": "{'a b': h.mean(1)}"}, "names a metric 'a b'; give letters, digits"),
    ],
)
def test_a_loss_or_a_metric_that_is_none_is_refused_with_its_unit(
    tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    config, dataset = loaded(settings(tmp_path, **changes))
    with pytest.raises(ConfigError) as caught:
        rehearse(config, dataset, 1 << 26)
    assert "own.py:build: unit 2 (Deep(Linear, Linear)), in training mode with " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_loss_passes_under_local_too(tmp_path: Path) -> None:
    rehearse(*loaded([*settings(tmp_path), "decoupling.unlock=local"]), 1 << 26)


def test_the_example_of_deep_supervision_is_as_the_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    *_, block = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    build = "def build(classes):\n    hidden = Supervised(64, 16, classes), Supervised(16, 16, classes)\n"
    build += "    return [nn.Flatten(), *hidden, nn.Linear(16, classes)]\n"
    (tmp_path / "own.py").write_text(f"from torch import nn\n\n{block}\n{build}")
    config, dataset = loaded([f"network.model={tmp_path}/own.py:build", "network.cuts=[2]"])
    rehearse(config, dataset, 1 << 26)
    units = build_network(config, dataset.inputs, dataset.targets).units
    assert [has_losses(unit) for unit in units] == [False, True, True, False]
    assert "2.head.weight" in nn.Sequential(*units).state_dict()


def test_a_loss_within_a_unit_that_has_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unit 2 holds a module with a loss of its own \(Deep\), which noth"
    ):
        loaded(settings(tmp_path, unit="nn.Sequential(Deep(classes))"))


def test_parts_and_values_of_such_a_name_are_no_loss() -> None:
    unit = nn.Linear(2, 2)
    unit.losses = nn.Linear(2, 2)
    assert not has_losses(unit)
    unit = nn.Linear(2, 2)
    vars(unit)["losses"] = [1.0]
    assert not has_losses(unit)
    vars(unit)["losses"] = lambda h, y: h.sum(1)
    assert has_losses(unit)


def test_too_many_metrics_are_refused() -> None:
    values = torch.zeros(2)
    assert check_metrics({"a": values}, 2, "unit 1")["a"] is values
    with pytest.raises(ConfigError, match=r"^unit 1 gives 17 names as its metrics; .* at most 16 names$"):
        check_metrics({f"m{n}": values for n in range(17)}, 2, "unit 1")


class Probed(nn.Linear):
    """A linear unit with a loss through a further product."""

    def __init__(self) -> None:
        super().__init__(20, 20)
        self.head = nn.Linear(20, 10)

    def losses(self, h: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(h), y, reduction="none")


def test_an_own_loss_is_paid_for() -> None:
    class Silent(Probed):
        losses = None  # type: ignore[assignment]

    form = SignalForm.plain((20,))
    own, without = (
        costs.unit_costs([unit], [form], form, classifying(10), 32, "sgd")[0] for unit in (Probed(), Silent())
    )
    # The head's product, and the gradients in its weights and its input.
    assert own - without > 3 * 32 * 20 * 10
