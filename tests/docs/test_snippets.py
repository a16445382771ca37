"""Snippets of reference pages do what the pages say, by themselves or with the least around them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.config import files
from common.config.decoupling import DecouplingConfig
from common.data import datasets
from common.models.own_v import OwnV
from common.net.access import Role
from common.net.identity import find_identity
from common.synthesizers import build
from tests.classifying import classifying
from tests.docs.blocks import DOCS, Block, read_blocks


def snippet(page: str, word: str) -> Block:
    """The only block of a page with a word."""
    (found,) = [block for block in read_blocks(DOCS / page) if word in block.text]
    return found


def test_a_function_gives_named_tensors(tmp_path: Path) -> None:
    (tmp_path / "named.py").write_text(snippet("data.md", "def counts").text)
    config = files.load(None, [f"data.dataset={tmp_path}/named.py:counts"])
    dataset = datasets.of(config)
    assert {name: form.shape for name, form in dataset.inputs.tensors.items()} == {
        "tokens": (16,),
        "mask": (16,),
    }


def test_a_unit_of_a_dict_changes_one_tensor_and_passes_the_others_on() -> None:
    scope: dict[str, Any] = {"nn": nn}
    exec(snippet("methods.md", "class Block").text, scope)
    block = scope["Block"]()
    block.work = nn.Linear(3, 3)
    s = {
        "h": torch.ones(2, 4, 3),
        "mask": torch.tensor(2 * [[True, True, False, False]]),
        "skip": torch.ones(2, 4, 3),
    }
    out = block(s)
    assert out["h"][:, 2:].equal(s["h"][:, 2:])
    assert not out["h"][:, :2].equal(s["h"][:, :2])
    assert out["mask"] is s["mask"]
    assert out["skip"] is s["skip"]


def test_a_virtual_network_of_ones_own_is_m_for_feature_maps(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(snippet("methods.md", "def v(").text)
    decoupling = DecouplingConfig(gradient_options={"v": f"{tmp_path}/own.py:v"})
    module = build(decoupling, (3, 6, 6), classifying(4), OwnV(decoupling.own_v or "", None))
    h, y = torch.randn(5, 3, 6, 6), torch.tensor([0, 1, 2, 3, 0])
    assert module.learn(h, y, torch.randn_like(h)) > 0
    assert module.gradient(h, y).shape == h.shape


def test_openssl_makes_a_certificate_of_a_slave_and_a_file_for_a_browser(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is missing")
    pytest.importorskip("cryptography")

    def run(command: str) -> None:
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)

    run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca-key.pem "
        "-out ca.pem -days 2 -subj /CN=authority"
    )
    for command in snippet("tls.md", "openssl req").commands():
        run(command.text)
    (tmp_path / "key.pem").chmod(0o600)
    identity = find_identity(tmp_path)
    assert identity is not None
    identity.check_own_role(Role.SLAVE, "any")
    (export,) = snippet("tls.md", "openssl pkcs12").commands()
    run(export.text.replace("certificates/reader/", "") + " -passout pass:")
    assert (tmp_path / "reader.p12").stat().st_size > 0
