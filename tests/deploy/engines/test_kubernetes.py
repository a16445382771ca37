"""The objects of `manifest kubernetes`: valid by the API's schemas, and bounded as compose's services."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from common.config import files
from common.errors import ConfigError
from common.net.identity import CA, CERTIFICATE, KEY
from deploy import cli
from tests.deploy.engines.manifests import COPIES, DIGITS, GOLDEN, ask, ask_objects, without_configuration

# Oldest and newest versions of Kubernetes whose schemas are checked.
VERSIONS = ("1.30", "1.36")
# Objects of extensions, whose schemas are not a part of Kubernetes' API.
EXTENSIONS = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}
Object = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "digits.toml"
    path.write_text(DIGITS)
    return path


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    for name in ("master", "store-1", "slave-1", "evaluator"):
        folder = tmp_path / "certificates" / name
        folder.mkdir(parents=True)
        for file in (CA, CERTIFICATE, KEY):
            (folder / file).write_text(f"{file} of {name}")
    return tmp_path / "certificates"


@pytest.fixture(
    params=["cert-manager", "certificates", "basic, all options", "own files", "stores", "stores, certified"]
)
def objects(request: pytest.FixtureRequest, tmp_path: Path, config: Path, certificates: Path) -> list[Object]:
    """The objects of each kind of wish."""
    (tmp_path / "mine.py").write_text("import beside\n\n\ndef make():\n    pass\n")
    (tmp_path / "beside.py").write_text("")
    options = {
        "cert-manager": [],
        "certificates": ["--tls", str(certificates)],
        "basic, all options": [
            "--set=cluster.profile=basic", "--set=downpour.replicas=2", "--gpus=2", "--cpus=3",
            "--memory=4Gi", "--storage=20Gi", "--monitoring=watch", "--name=mine",
            "--image=registry.example.org/layerwise:1",
        ],
        "own files": [f"--set=data.dataset={tmp_path / 'mine.py'}:make", "--set=data.path=/data/mine",
                      "--data-claim=mine"],
        "stores": ["--set=cluster.stores=3", "--monitoring=watch"],
        "stores, certified": ["--set=cluster.stores=1", "--tls", str(certificates)],
    }[request.param]  # fmt: skip
    return ask_objects(config, *options)


def only(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found


def workloads(objects: list[Object]) -> list[Object]:
    return [each for each in objects if each["kind"] in ("StatefulSet", "Job")]


def pods(objects: list[Object]) -> list[Object]:
    return [each["spec"]["template"] for each in workloads(objects)]


def fits(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid_by_the_schemas_of_kubernetes(objects: list[Object], version: str) -> None:
    checked = 0
    for each in objects:
        if each["apiVersion"] not in EXTENSIONS:
            kubernetes_validate.validate(each, version, strict=True)
            checked += 1
    assert checked >= 10


def test_the_schemas_find_a_wrong_field(config: Path) -> None:
    job = only(ask_objects(config), "Job", "slave")
    job["spec"]["completion"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="completion"):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("copy", ["kubernetes.yaml", "kubernetes-stores.yaml"])
def test_the_manifest_is_the_golden_copy(config: Path, copy: str) -> None:
    kind, *options = COPIES[copy]
    assert without_configuration(ask(config, kind, *options)) == (GOLDEN / copy).read_text()


def test_names_are_unique_and_what_a_pod_mounts_is_there(objects: list[Object]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    made = {each["spec"].get("secretName") for each in objects if each["kind"] == "Certificate"}
    made |= {name for kind, name in names if kind == "Secret"}
    # The user makes the secret of the reader's token.
    made |= {each["metadata"]["name"] + "-reader" for each in objects if each["kind"] == "PodMonitor"}
    for pod in pods(objects):
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] in made
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "mine")
            assert claim == "mine" or ("PersistentVolumeClaim", claim) in names
        (container,) = pod["spec"]["containers"]
        claimed = {"state"} if container["name"] in ("master", "store") else set()
        assert {each["name"] for each in container["volumeMounts"]} == volumes.keys() | claimed


def test_pods_have_the_rights_and_bounds_of_composes_services(objects: list[Object]) -> None:
    for pod in pods(objects):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert container["resources"]["requests"]["cpu"] >= 1


def test_commands_have_the_options_that_they_are_given(objects: list[Object]) -> None:
    seen = set()
    for pod in pods(objects):
        name, *arguments = pod["spec"]["containers"][0]["args"]
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        command.make_context(name, arguments)
        seen.add(name)
    assert seen - {"store"} == {"master", "slave", "evaluate"}
    assert len(seen) == len(pods(objects))


def test_a_slave_for_every_seat_ends_with_the_run(config: Path) -> None:
    job = only(ask_objects(config, "--set", "downpour.replicas=2"), "Job", "slave")
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 6
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_the_configuration_of_the_map_is_the_users(config: Path) -> None:
    (text,) = only(ask_objects(config, "--set", "run.seed=7"), "ConfigMap")["data"].values()
    loaded = files.parse(text, "the map")
    assert (loaded.run.name, loaded.run.seed, loaded.layers) == ("digits", 7, 3)


def test_selectors_find_the_pods_that_they_mean(objects: list[Object]) -> None:
    labels = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["metadata"]["labels"]
              for pod in pods(objects)}  # fmt: skip
    assert labels.keys() - {"store"} == {"master", "slave", "evaluator"}
    services = [each for each in objects if each["kind"] == "Service"]
    assert len(services) == len(labels) - 2
    for service in services:
        selector = {"matchLabels": service["spec"]["selector"]}
        component = service["metadata"]["labels"]["app.kubernetes.io/component"]
        assert [name for name, own in labels.items() if fits(selector, own)] == [component]
    for each in objects:
        if each["kind"] in ("PodDisruptionBudget", "StatefulSet"):
            chosen = [name for name, own in labels.items() if fits(each["spec"]["selector"], own)]
            assert chosen == [each["metadata"]["labels"]["app.kubernetes.io/component"]]


def test_only_the_runs_own_processes_reach_a_master(config: Path) -> None:
    objects = ask_objects(config)
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "NetworkPolicy"}
    assert policies.keys() == {"digits", "digits-master"}
    assert policies["digits"]["policyTypes"] == ["Ingress", "Egress"]
    assert policies["digits"]["ingress"] == []
    (rule,) = policies["digits-master"]["ingress"]
    (caller,) = rule["from"]
    chosen = {
        name: fits(caller["podSelector"], {"app.kubernetes.io/name": "layerwise",
                                           "app.kubernetes.io/instance": instance,
                                           "app.kubernetes.io/component": component})
        for name, instance, component in (("slave", "digits", "slave"), ("evaluator", "digits", "evaluator"),
                                          ("other run", "words", "slave"), ("master", "digits", "master"))
    }  # fmt: skip
    assert chosen == {"slave": True, "evaluator": True, "other run": False, "master": False}
    container = pods(objects)[0]["spec"]["containers"][0]
    own = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert [each["port"] for each in rule["ports"]] == [own["control"], own["data"]]


def test_every_store_has_a_claim_and_is_reached_by_slaves_and_the_evaluator(config: Path) -> None:
    objects = ask_objects(config, "--set=cluster.stores=3")
    stores = only(objects, "StatefulSet", "store")["spec"]
    service = only(objects, "Service", "store")
    assert (stores["replicas"], stores["podManagementPolicy"]) == (3, "Parallel")
    assert (stores["serviceName"], service["spec"]["clusterIP"]) == (service["metadata"]["name"], "None")
    (claim,) = stores["volumeClaimTemplates"]
    (mount,) = [
        each
        for each in stores["template"]["spec"]["containers"][0]["volumeMounts"]
        if each["name"] == claim["metadata"]["name"]
    ]
    # Below the claim's own folder, which belongs to root.
    assert f"--state-dir={mount['mountPath']}/store" in stores["template"]["spec"]["containers"][0]["args"]
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "NetworkPolicy"}
    reach = {name: _callers(spec) for name, spec in policies.items() if spec["ingress"]}
    assert reach == {"digits-master": ["store", "slave", "evaluator"], "digits-store": ["slave", "evaluator"]}
    budget = only(objects, "PodDisruptionBudget", "store")["spec"]
    assert budget["minAvailable"] == 3
    (uris,) = [each["spec"]["uris"] for each in objects
               if each["kind"] == "Certificate" and each["metadata"]["name"] == "digits-store"]  # fmt: skip
    assert uris == ["layerwise:store:digits"]


def _callers(policy: dict[str, Any]) -> list[str]:
    (rule,) = policy["ingress"]
    (caller,) = rule["from"]
    (chosen,) = caller["podSelector"]["matchExpressions"]
    return list(chosen["values"])


def test_slaves_reach_each_other_in_basic_alone(config: Path) -> None:
    for profile, reach in (("light", False), ("basic", True)):
        policies = {each["metadata"]["name"]: each["spec"]
                    for each in ask_objects(config, f"--set=cluster.profile={profile}")
                    if each["kind"] == "NetworkPolicy"}  # fmt: skip
        assert ("digits-slave" in policies) == reach
        if reach:
            # The master tries a slave's address before the slave joins.
            assert _callers(policies["digits-slave"]) == ["master", "slave"]


def test_pages_are_for_the_namespace_of_prometheus_alone(config: Path) -> None:
    assert "PodMonitor" not in {each["kind"] for each in ask_objects(config)}
    objects = ask_objects(config, "--monitoring", "watch")
    (endpoint,) = only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    # The master asks for the same token that Prometheus shows.
    token = endpoint["authorization"]["credentials"]
    master = only(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert f"--reader-token-file=/reader/{token['key']}" in master["containers"][0]["args"]
    assert {"name": "reader", "secret": {"secretName": token["name"], "defaultMode": 0o440}} in master[
        "volumes"
    ]
    (rule,) = next(each for each in objects if each["metadata"]["name"] == "digits"
                   and each["kind"] == "NetworkPolicy")["spec"]["ingress"]  # fmt: skip
    assert rule["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "watch"}
    assert [each["port"] for each in rule["ports"]] == [8080]


def test_probes_ask_for_the_health_of_processes_that_have_pages(objects: list[Object]) -> None:
    for pod in pods(objects):
        (container,) = pod["spec"]["containers"]
        probes = [value["httpGet"] for name, value in container.items() if name.endswith("Probe")]
        assert {probe["path"] for probe in probes} <= {"/healthz"}
        assert len(probes) == {"master": 3, "store": 2, "slave": 2, "evaluator": 0}[container["name"]]


def test_secrets_have_the_files_of_a_folder_and_pods_see_them_by_our_names(
    config: Path, certificates: Path
) -> None:
    objects = ask_objects(config, "--tls", str(certificates))
    secret = only(objects, "Secret", "slave-tls")
    assert base64.b64decode(secret["data"]["tls.key"]) == b"key.pem of slave-1"
    (volume,) = [each for each in pods(objects)[1]["spec"]["volumes"] if each["name"] == "tls"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert {each["key"]: each["path"] for each in volume["secret"]["items"]} == {
        "ca.crt": CA,
        "tls.crt": CERTIFICATE,
        "tls.key": KEY,
    }
    assert volume["secret"]["defaultMode"] == 0o440


def test_cert_manager_gives_each_process_the_role_of_the_run(config: Path) -> None:
    made = [each for each in ask_objects(config) if each["kind"] == "Certificate"]
    uris = {each["metadata"]["name"]: each["spec"].get("uris") for each in made}
    assert uris == {
        "digits-authority": None,
        "digits-master": ["layerwise:master:digits"],
        "digits-slave": ["layerwise:slave:digits"],
        "digits-evaluator": ["layerwise:evaluator:digits"],
    }
    named = [each["metadata"]["name"] for each in made
             if "master.layerwise.internal" in each["spec"].get("dnsNames", [])]  # fmt: skip
    assert named == ["digits-master"]


def test_kustomize_has_a_file_for_every_object_and_writes_over_nothing(tmp_path: Path, config: Path) -> None:
    base = tmp_path / "base"
    printed = ask(config, "kubernetes", "--kustomize", str(base)).splitlines()
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    assert sorted(map(Path, printed)) == sorted(base.iterdir())
    assert len(set(listed)) == len(listed)
    assert [yaml.safe_load((base / name).read_text()) for name in listed] == ask_objects(config)
    with pytest.raises(ConfigError, match="no empty folder"):
        ask(config, "kubernetes", "--kustomize", str(base))


def test_json_is_a_list_of_the_same_objects(config: Path) -> None:
    listed = json.loads(ask(config, "kubernetes", "--json"))
    assert (listed["kind"], listed["items"]) == ("List", ask_objects(config))


def test_yaml_has_no_anchors_and_shows_the_configuration_in_lines(config: Path) -> None:
    text = ask(config, "kubernetes")
    assert not re.search(r"[&*]id\d", text)
    assert '\n    name = "digits"\n' in text


def test_code_of_the_user_is_a_map_of_the_files_that_are_imported(tmp_path: Path, config: Path) -> None:
    (tmp_path / "mine.py").write_text("import beside\n\n\ndef make():\n    pass\n")
    (tmp_path / "beside.py").write_text("A = 1\n")
    (tmp_path / "unused.py").write_text("B = 2\n")
    objects = ask_objects(config, f"--set=data.dataset={tmp_path / 'mine.py'}:make")
    assert only(objects, "ConfigMap", "code")["data"].keys() == {"mine.py", "beside.py"}
    for pod in pods(objects)[1:]:
        assert "--code=/code" in pod["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--name", "Digits"], "--name: Digits .* small letters"),
        (["--set", "run.name=My run"], "run.name: My run .* give --name"),
        (["--memory", "much"], "--memory much: .* 2Gi"),
        (["--storage", "0"], "--storage 0: .* 2Gi"),
        (["--set", "data.path=/data/mine"], "data.path: /data/mine .* --data-claim"),
        (["--tls", "/nowhere"], "--tls: /nowhere/master/ca.pem: No such file"),
        (["--json", "--kustomize", "x"], "either --kustomize or --json"),
        (["--set", "cluster.profile=synchronous"], "cluster.profile: .* use `layerwise train`"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(config: Path, options: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask(config, "kubernetes", *options)
