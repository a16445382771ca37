"""Files of docker-compose: a run that can be watched, seen by Prometheus at once, and no known password."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from common.config.files import load
from deploy.engines import containers

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
PROMETHEUS = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
# More batches a second than the default run reaches where every process has a core of its own.
FASTEST = 500
SEEN_SECONDS = 20
# Prometheus passes what service discovery has found on to the scrapers every five seconds.
HAND_OVER_SECONDS = 5


def seconds(key: str) -> int:
    """Return the seconds of the one interval of a name in Prometheus' configuration."""
    (found,) = re.findall(rf"^\s*{key}: (\d+)s$", PROMETHEUS, re.MULTILINE)
    return int(found)


def service(name: str) -> str:
    """Return the lines of a service."""
    found = re.search(rf"^  {name}:.*?\n(?=^  ?\S|\Z)", COMPOSE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[0]


def test_the_run_lasts_for_five_minutes_at_least() -> None:
    file = ROOT / "deploy" / "docker" / "run.toml"
    assert f"./{file.relative_to(ROOT)}" in service("master")
    config = load(file)
    assert config.run.batches >= 5 * 60 * FASTEST
    assert config.run.evaluate_every * 10 <= config.run.batches
    assert config.optimizer.schedule == "cosine"  # the end is steady


def test_prometheus_sees_a_process_within_twenty_seconds() -> None:
    discovered = seconds("refresh_interval") + HAND_OVER_SECONDS + seconds("scrape_interval")
    assert discovered + seconds("scrape_timeout") <= SEEN_SECONDS


def test_prometheus_shows_the_readers_token_and_may_read_it() -> None:
    assert (
        len(
            re.findall(
                r"^    (?:    )?authorization: {type: Bearer, credentials_file: /reader/token}$",
                PROMETHEUS,
                re.M,
            )
        )
        == 3
    )
    assert "--reader-token-file=/reader/token" in service("master")
    (group,) = re.findall(
        r"groupadd --gid (\d+) layerwise", (ROOT / "Dockerfile").read_text(encoding="utf-8")
    )
    # The user stays the image's own, who may write to the volume.
    assert f'group_add: ["{group}"]' in service("prometheus")
    assert "user:" not in service("prometheus")
    assert "- reader:/reader:ro" in service("prometheus")


def test_grafana_has_visitors_and_no_account() -> None:
    settings = dict(re.findall(r'^\s+(GF_\w+): "?([^"\n]*)"?$', service("grafana"), re.MULTILINE))
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in settings if "PASSWORD" in name]


def test_ports_are_published_on_this_machine_alone_by_default() -> None:
    published = re.findall(r"^\s+ports: \[(.*)\]$", COMPOSE, re.MULTILINE)
    assert len(published) == 3
    assert all(each.startswith('"${LAYERWISE_BIND:-127.0.0.1}:') for each in published)


def test_every_service_has_bounds_and_no_capabilities() -> None:
    shared = re.search(r"^x-layerwise:.*?\n(?=^services)", COMPOSE, re.MULTILINE | re.DOTALL)
    assert shared
    for text in (shared[0], service("prometheus"), service("grafana")):
        assert "cap_drop: [ALL]" in text
        assert 'security_opt: ["no-new-privileges:true"]' in text
        assert re.search(r"^\s+pids_limit: \d+$", text, re.MULTILINE)
        assert re.search(r"^\s+mem_limit: \S+$", text, re.MULTILINE)
    for name in ("master", "slave", "evaluator"):
        assert "<<: *layerwise" in service(name)


def test_services_run_the_commands_that_kubernetes_runs() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    told = {name: services[name]["command"] for name in ("master", "slave", "spare", "evaluator")}
    settings = [word for word in told["master"] if word.startswith("--set=")]
    assert told == {
        "master": [
            *containers.master_command(
                containers.STATE, ["--join-token-file=/token/join", "--reader-token-file=/reader/token"]
            ),
            *settings,
        ],
        "slave": containers.slave_command("master", ["--join-token-file=/token/join"]),
        "spare": containers.slave_command("master", ["--join-token-file=/token/join"]),
        "evaluator": containers.evaluator_command("master", ["--token-file=/state/operator.token"]),
    }
    health = f"http://127.0.0.1:{containers.PAGES_PORT}{containers.HEALTH}"
    assert all(health in services[name]["healthcheck"]["test"][-1] for name in ("master", "slave"))
    assert services["master"]["stop_grace_period"] == f"{containers.GRACE_SECONDS}s"
    assert services["master"]["image"] == containers.IMAGE
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"--uid {containers.USER} " in dockerfile
    for place in (containers.STATE, containers.RUNS, containers.CACHE):
        assert f" {place} " in dockerfile
