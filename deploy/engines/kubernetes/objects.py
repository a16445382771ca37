"""All objects of a run for Kubernetes, as YAML, as JSON, or as a folder for kustomize."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from common import strict_json
from common.config.user_files import digest_files
from common.errors import ConfigError
from deploy.engines.containers import CONFIG
from deploy.engines.kubernetes import network, secrets, workloads
from deploy.engines.kubernetes.names import Object, Order

# Most that a ConfigMap holds.
MOST_CODE = 1 << 20


class _Dumper(yaml.SafeDumper):
    """Writer of YAML with text of several lines as blocks, and without anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class's signature
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def build_objects(order: Order) -> list[Object]:
    """Build the objects, in an order in which they can be made.

    Raises:
        ConfigError: a file that the configuration or an option names cannot be used.
    """
    return [
        order.thing("v1", "ConfigMap", "config", data={_file_name(CONFIG): order.plan.config.to_toml()}),
        *_build_code(order),
        *secrets.build_secrets(order),
        *network.build_policies(order),
        network.build_service(order),
        *network.build_store_service(order),
        workloads.build_master(order),
        *workloads.build_stores(order),
        workloads.build_slaves(order),
        *workloads.build_evaluator(order),
        *network.build_budgets(order),
        *network.build_monitor(order),
    ]


def render_yaml(objects: Sequence[Object]) -> str:
    """Render the objects as a stream of YAML documents."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=110, explicit_start=True)


def render_json(objects: Sequence[Object]) -> str:
    """Render the objects as a list of the API, which `kubectl` takes as it takes YAML."""
    return strict_json.encode({"apiVersion": "v1", "kind": "List", "items": list(objects)}, indent=2)


def write_base(objects: Sequence[Object], folder: Path) -> list[Path]:
    """Write a base for kustomize: a file for each object, and the list of the files.

    Raises:
        ConfigError: the folder has something in it.
        OSError: the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--kustomize {folder}: is no empty folder; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{each['kind'].lower()}-{each['metadata']['name']}.yaml" for each in objects]
    base = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names}
    written = []
    for name, content in zip(["kustomization.yaml", *names], [base, *objects], strict=True):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(render_yaml([content]), encoding="utf-8")
        written.append(path)
    return written


def _build_code(order: Order) -> list[Object]:
    """Build the map of the user's Python files: those that the configuration names, and what they import.

    Raises:
        ConfigError: they are too large, or lie in a package.
    """
    code = order.plan.code
    if code is None:
        return []
    specs = order.plan.config.user_functions.values()
    names = sorted({name for spec in specs for name in digest_files(spec, code)})
    for name in names:
        if "/" in name:
            raise ConfigError(
                f"{code / name}: lies in a package, and a ConfigMap has no folders; put the packages into an "
                "image of your own, and give --image"
            )
    content = {name: (code / name).read_text(encoding="utf-8") for name in names}
    if sum(len(text.encode()) for text in content.values()) > MOST_CODE:
        raise ConfigError(
            f"{code}: its files have over {MOST_CODE:,} bytes, more than a ConfigMap holds; put them into an "
            "image of your own, and give --image"
        )
    return [order.thing("v1", "ConfigMap", "code", data=content)]


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]
