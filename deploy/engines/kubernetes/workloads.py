"""Processes of a run in Kubernetes: stateful sets for master and stores, jobs for slaves and evaluator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.engines.containers import (
    CACHE,
    CONFIG,
    CONTROL_PORT,
    DATA_PORT,
    GRACE_SECONDS,
    HEALTH,
    PAGES_PORT,
    READER_TOKEN,
    RUNS,
    STATE,
    USER,
    evaluator_command,
    master_command,
    slave_command,
    store_command,
)
from deploy.engines.kubernetes.names import EVALUATOR, MASTER, SLAVE, STORE, Object, Order
from deploy.engines.kubernetes.secrets import FILES, MOUNT

CODE, DATA = "/code", "/data"
TLS = f"--tls={MOUNT}"
# Pulling images and finding a node may keep a master away for so long.
WAIT_SECONDS = 600
# Deaths of a slave on average until the job gives up.
DEATHS = 6
# A pod on a node that is silent for so long is replaced.
SILENT_NODE_SECONDS = 30
# The group of a claim's files is set when the claim is new, and not at every mount.
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def build_master(order: Order) -> Object:
    """Build the stateful set of the master, with a claim for its state."""
    # The claim's own folder belongs to root: the master makes one that is its own.
    mounts, volumes, rights = [_mount("state", STATE)], [], [TLS]
    if order.wishes.monitoring:
        # Prometheus, too, reads the token from this secret.
        secret = {"secretName": order.reader, "defaultMode": 0o440}
        mounts.append(_mount("reader", READER_TOKEN.rpartition("/")[0], read_only=True))
        volumes.append({"name": "reader", "secret": secret})
        rights.append(f"--reader-token-file={READER_TOKEN}")
    container = _container(order, MASTER, master_command(f"{STATE}/run", rights), mounts)
    ports = {"control": CONTROL_PORT, "data": DATA_PORT, "pages": PAGES_PORT}
    container |= _ports(ports) | _probes(ready=True)
    return _stateful_set(order, MASTER, container, volumes, {"replicas": 1})


def build_stores(order: Order) -> Iterator[Object]:
    """Build the stateful set of the stores, each with a claim for its shards, if the run has stores."""
    if order.plan.stores:
        rights = [TLS, f"--wait={WAIT_SECONDS}"]
        command = store_command(order.master, f"{STATE}/store", rights)
        container = _container(order, STORE, command, [_mount("state", STATE)])
        container |= _ports({"data": DATA_PORT, "pages": PAGES_PORT}) | _probes(ready=False)
        # Stores need each other for nothing.
        many = {"replicas": order.plan.stores, "podManagementPolicy": "Parallel"}
        yield _stateful_set(order, STORE, container, [], many)


def _stateful_set(
    order: Order, component: str, container: Object, volumes: Sequence[Object], many: Object
) -> Object:
    """Build a stateful set with a claim for the state of each pod."""
    claim = {"metadata": {"name": "state", "labels": order.labels(component)}, "spec": _claim(order)}
    return order.thing(
        "apps/v1",
        "StatefulSet",
        component,
        component,
        spec={
            "serviceName": f"{order.name}-{component}",
            **many,
            "selector": order.select(component),
            "template": _template(order, component, container, volumes),
            "volumeClaimTemplates": [claim],
        },
    )


def build_slaves(order: Order) -> Object:
    """Build the job of the slaves: every one ends with the run."""
    command = slave_command(order.master, [TLS, f"--wait={WAIT_SECONDS}", *_own_files(order)])
    container = _container(order, SLAVE, command, _own_mounts(order), gpus=order.wishes.gpus)
    container |= _ports({"pages": PAGES_PORT}) | _probes(ready=False)
    slaves = order.plan.slaves
    return order.thing(
        "batch/v1",
        "Job",
        SLAVE,
        SLAVE,
        spec={
            "completionMode": "Indexed",
            "completions": slaves,
            "parallelism": slaves,
            "backoffLimit": DEATHS * slaves,
            "template": _template(order, SLAVE, container, _own_volumes(order), "OnFailure"),
        },
    )


def build_evaluator(order: Order) -> list[Object]:
    """Build the job of the evaluator, and a claim for the result files."""
    command = evaluator_command(order.master, [TLS, *_own_files(order)])
    mounts = [_mount("runs", RUNS), *_own_mounts(order)]
    container = _container(order, EVALUATOR, command, mounts)
    runs = {"name": "runs", "persistentVolumeClaim": {"claimName": f"{order.name}-runs"}}
    template = _template(order, EVALUATOR, container, [runs, *_own_volumes(order)], "OnFailure")
    return [
        order.thing("v1", "PersistentVolumeClaim", "runs", EVALUATOR, spec=_claim(order)),
        order.thing(
            "batch/v1", "Job", EVALUATOR, EVALUATOR, spec={"backoffLimit": DEATHS, "template": template}
        ),
    ]


def _container(
    order: Order, component: str, command: list[str], mounts: Sequence[Object], gpus: int = 0
) -> Object:
    """Build a container with what every process has: bounds, rights, certificates, room for caches.

    Processors are asked for and not limited: a process that is throttled misses heartbeats.
    """
    wishes = order.wishes
    threads = wishes.cpus if component == SLAVE else 1
    device = {"nvidia.com/gpu": gpus} if gpus else {}
    configuration = (
        [_mount("config", CONFIG.rpartition("/")[0], read_only=True)] if component == MASTER else []
    )
    return {
        "name": component,
        "image": wishes.image,
        "args": command,
        "env": [{"name": "OMP_NUM_THREADS", "value": str(threads)}],
        "resources": {
            "requests": {"cpu": threads, "memory": wishes.memory, **device},
            "limits": {"memory": wishes.memory, **device},
        },
        "securityContext": _SECURITY,
        "volumeMounts": [
            *configuration,
            *mounts,
            _mount("tls", MOUNT, read_only=True),
            _mount("tmp", "/tmp"),  # noqa: S108 - a place in the container
            _mount("cache", CACHE),
        ],
    }


def _template(
    order: Order, component: str, container: Object, volumes: Sequence[Object], restart: str = "Always"
) -> Object:
    """Build the template of a component's pods."""
    configuration = [{"name": "config", "configMap": {"name": f"{order.name}-config"}}]
    items = [{"key": key, "path": path} for key, path in FILES.items()]
    secret = {"secretName": f"{order.name}-{component}-tls", "defaultMode": 0o440, "items": items}
    tolerations = [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": SILENT_NODE_SECONDS,
        }
        for trouble in ("not-ready", "unreachable")
    ]
    return {
        "metadata": {"labels": order.labels(component)},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": _POD_SECURITY,
            "tolerations": tolerations,
            "containers": [container],
            "volumes": [
                *(configuration if component == MASTER else []),
                *volumes,
                {"name": "tls", "secret": secret},
                {"name": "tmp", "emptyDir": {}},
                {"name": "cache", "emptyDir": {}},
            ],
        },
    }


def _ports(ports: dict[str, int]) -> Object:
    return {"ports": [{"name": name, "containerPort": port} for name, port in ports.items()]}


def _probes(*, ready: bool) -> Object:
    """Build probes of a process's page of health."""

    def probe(period: int, failures: int) -> Object:
        return {
            "httpGet": {"path": HEALTH, "port": "pages"},
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        }

    probes = {"startupProbe": probe(5, 60), "livenessProbe": probe(10, 6)}
    return probes | ({"readinessProbe": probe(5, 2)} if ready else {})


def _own_files(order: Order) -> list[str]:
    """Return the options that name the user's files and data in the container."""
    path = order.plan.config.data.path
    code = [f"--code={CODE}"] if order.plan.code else []
    return code + ([f"--data={DATA}/{path.rpartition('/')[2]}"] if path else [])


def _own_mounts(order: Order) -> list[Object]:
    code = [_mount("code", CODE, read_only=True)] if order.plan.code else []
    return code + ([_mount("data", DATA, read_only=True)] if order.plan.config.data.path else [])


def _own_volumes(order: Order) -> list[Object]:
    code: list[Object] = [{"name": "code", "configMap": {"name": f"{order.name}-code"}}]
    claim = {"claimName": order.wishes.data_claim, "readOnly": True}
    data: list[Object] = [{"name": "data", "persistentVolumeClaim": claim}]
    return [*(code if order.plan.code else []), *(data if order.plan.config.data.path else [])]


def _mount(name: str, path: str, *, read_only: bool = False) -> Object:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _claim(order: Order) -> Object:
    return {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": order.wishes.storage}},
    }
