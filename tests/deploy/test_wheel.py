"""The wheel takes one name, `layerwise`, and works beside packages of the names of our folders."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from deploy.wheel.moving import MOVED, find_names, move_imports, stage
from tests.integration.processes import ROOT

NETWORK = """
import common  # the other package
import deploy
from torch import nn

assert common.OWNER == deploy.OWNER == "another"


def build(input_shape, classes):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, classes)]
"""
SCRIPT = """
import common, layerwise, my_network

if __name__ == "__main__":
    assert common.OWNER == "another"
    result = layerwise.train(progress=False, **{"network.model": my_network.build, "run.batches": 20})
    assert result.summary["slaves"] == 2
    result.model()
    compared = layerwise.compare(over={"run.seed": [0]}, place="synchronous", **{"run.batches": 5})
    assert type(result.config).__module__ == "layerwise.common.config.sections"
"""


@pytest.mark.parametrize(
    ("source", "moved"),
    [
        ("from common.errors import X", "from layerwise.common.errors import X"),
        ("def f():\n    from deploy import cli", "def f():\n    from layerwise.deploy import cli"),
        ("é = 1; from common import x", "é = 1; from layerwise.common import x"),
        ("import master.store as store", "import layerwise.master.store as store"),
        ("from protos import a as b\nimport os", "from layerwise.protos import a as b\nimport os"),
        ("from commons import x\nimport deployment", "from commons import x\nimport deployment"),
        ("from . import common", "from . import common"),
        ('TEXT = "from common import x"', 'TEXT = "from common import x"'),
    ],
)
def test_imports_move_and_nothing_else(source: str, moved: str) -> None:
    assert move_imports(source) == moved


@pytest.mark.parametrize("source", ["import common", "import common.errors", "import os, deploy.cli as c"])
def test_an_import_whose_uses_would_have_to_move_too_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="write from PACKAGE import MODULE"):
        move_imports(source, "m.py")


def test_a_name_of_a_module_in_text_is_found() -> None:
    source = 'a = "common.errors"\nb = "the package common.errors"\nc = "common.none"\nd = f"{a}.common"\n'
    assert list(find_names(source, ROOT)) == [(1, "common.errors")]


def test_the_sources_can_be_moved(tmp_path: Path) -> None:
    stage(ROOT, tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"layerwise"}
    sources = list((tmp_path / "layerwise").rglob("*.py"))
    assert len(sources) > 200
    for source in sources:
        compile(source.read_text(encoding="utf-8"), str(source), "exec")
    settings = configparser.ConfigParser()
    settings.read(tmp_path / "setup.cfg")
    assert "layerwise.master.web" in settings["options.package_data"]
    assert (
        settings["options.entry_points"]["console_scripts"].strip() == "layerwise = layerwise.deploy.cli:main"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_works_beside_packages_of_the_same_names(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    other = tmp_path / "other"
    for package in MOVED:
        (other / package).mkdir(parents=True)
        (other / package / "__init__.py").write_text('OWNER = "another"\n')
    (other / "setup.py").write_text(
        f"from setuptools import setup\nsetup(name='another', version='1', packages={list(MOVED)})\n"
    )
    for source in (ROOT, other):
        place = str(tmp_path / "wheels")
        build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, str(source)]
        subprocess.run([*pip, *build], check=True)
    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    with zipfile.ZipFile(next(each for each in wheels if each.name.startswith("layerwise"))) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
        assert {name for name in tops if not name.endswith(".dist-info")} == {"layerwise"}
        kept = {"master/web/static/index.html", "deploy/guidance/starter/run.toml", "py.typed"}
        assert {f"layerwise/{name}" for name in kept} <= set(wheel.namelist())

    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    # The libraries come from this environment; its own packages of these names come later, and are not used.
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
        ).strip()
    )
    libraries = [
        sysconfig.get_path("purelib"),
        *(each for each in sys.path if each.endswith("site-packages")),
    ]
    (packages / "libraries.pth").write_text("\n".join(dict.fromkeys(libraries)))
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--no-index", *map(str, wheels)], check=True
    )

    folder = tmp_path / "anywhere"
    folder.mkdir()
    (folder / "my_network.py").write_text(NETWORK)
    (folder / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = home / "bin" / "layerwise"
    assert "layerwise, version" in run(command, "--version")
    own = ["--set", "network.model=my_network.py:build", "--set", "run.batches=30"]
    run(command, "train", *own, "--run-dir", "run")
    assert "test error" in run(command, "evaluate", "run")
    assert '"name"' in run(command, "doctor", "--json", *own)
    run(command, "init", "mine")
    run(command, "config")
    run(python, "script.py")
    assert run(python, "-c", "import common; print(common.OWNER)") == "another\n"


@pytest.mark.slow
def test_the_sdist_has_what_its_wheel_needs(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps"]
    build = (
        "import os, sys; sys.path.insert(0, 'deploy/wheel'); import backend; "
        f"print(backend.build_sdist({str(tmp_path)!r}))"
    )
    out = subprocess.check_output([sys.executable, "-c", build], cwd=ROOT, text=True)
    sdist = tmp_path / out.split()[-1]
    for source, name in ((ROOT, "tree"), (sdist, "sdist")):
        wheels = tmp_path / name
        subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", wheels, source], check=True)
    one, other = (
        set(zipfile.ZipFile(next((tmp_path / name).glob("*.whl"))).namelist()) for name in ("tree", "sdist")
    )
    assert one == other
