"""GPT-2 of Hugging Face's transformers as units, with random weights or a folder's; nothing is downloaded.

    pip install transformers
    layerwise train --set data.dataset=text --set data.path=FILE --set network.layers=2 \
        --set network.model=examples/transformers_gpt2.py:build \
        --set 'network.options={n_embd=128,n_head=4,n_layer=4}'

To go on from a model of `save_pretrained`, name its folder, with its tokens and its context:

    layerwise train ... --set data.tokens=FOLDER/tokenizer.json --set data.context=256 \
        --set 'network.options={folder="FOLDER"}'
"""

from typing import Any

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel


class Embedding(nn.Module):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = body.wte, body.wpe, body.drop

    def forward(self, tokens: Tensor) -> Any:
        return self.drop(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])


class Block(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, h: Tensor) -> Any:
        out = self.block(h)
        return out[0] if isinstance(out, tuple) else out


def build(
    input_shape: tuple[int], classes: int, folder: str | None = None, **options: int
) -> list[nn.Module]:
    """Build the units; a head of its own weights lets layers be cut anywhere (`tie_word_embeddings`)."""
    if folder is None:
        fixed = {"vocab_size": classes, "n_positions": input_shape[0], "tie_word_embeddings": False}
        model = GPT2LMHeadModel(GPT2Config(**fixed, **options))
    else:
        model = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    body, head = model.transformer, model.lm_head
    return [Embedding(body), *map(Block, body.h), nn.Sequential(body.ln_f, head)]
