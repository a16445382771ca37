"""MODEL_CARD.md: a page about the model of a run, beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import files
from common.config.run import AVERAGES
from common.config.sections import Config
from common.data.datasets import Dataset
from common.observe import measures
from common.text import printable
from common.versions import installed_versions

if TYPE_CHECKING:
    from torch import Tensor

CARD = "MODEL_CARD.md"


def render_card(
    summary: Mapping[str, Any], state: Mapping[str, Tensor], config: Config, data: Dataset
) -> str:
    """Render the page: results, data, training, use, configuration, versions.

    Files and folders stand by their names alone, since the page is to be published.

    Args:
        summary: content of summary.json.
        state: state dict of the plain network.
        config: of the run.
        data: trained on.
    """
    config = files.map_paths(config, lambda path: Path(path).name)
    parameters = sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    results = {
        measures.title(name): measures.format_value(name, v) for name, v in measures.of(summary).items()
    }
    best = summary.get("best")
    if best:
        name, value = next(iter(measures.of(best).items()))
        results["best evaluation"] = f"{measures.format_value(name, value)} at batch {best['batches']:,}"
    method = f"unlock {config.decoupling.unlock}"
    if config.decoupling.row.synthesizes:
        method += f", gradient synthesizer {config.decoupling.gradient}"
    if config.decoupling.aligned:
        method += f", {config.decoupling.alignment}"
    training = {
        "method": f"{method}, profile {config.cluster.profile}, {len(config.network.cuts or []) + 1} layers",
        "length": f"{config.run.batches:,} batches of {config.run.batch_size}",
        "optimizer": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}",
        "weights": AVERAGES[config.run.average].help,
        "begun from": config.network.initial or f"random weights of seed {config.run.seed}",
    }
    described = {
        "data set": config.data.dataset,
        "examples": "streams made by the program"
        if config.curriculum
        else f"{len(data.train):,} for training, {len(data.test):,} for the test",
        "an example": data.inputs.describe_example(),
        "task": config.task.kind,
    }
    return f"""# {printable(config.run.name)}

A network `{printable(config.network.model)}` of {parameters:,} numbers, trained by layerwise.

## Results on the test set

{_table(results)}
## Data

{_table(described)}
## Training

{_table(training)}
## Use

```python
import layerwise

network = layerwise.load("FOLDER").model()
```

`model.safetensors` is a plain state dict: torch loads it without layerwise. Its metadata have the
normalization of the inputs.

## Intended use and limits

To be written by those who publish the model.

## Versions

{_table(installed_versions())}
## Configuration

```toml
{config.to_toml().strip()}
```
"""


def _table(rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {_cell(value)} |\n" for name, value in rows.items()]
    return "| | |\n| --- | --- |\n" + "".join(lines)


def _cell(value: str) -> str:
    return printable(value).replace("|", "\\|")
