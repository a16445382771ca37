"""Who may talk with whom in Kubernetes, which evictions may happen, and what Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.engines.containers import CONTROL_PORT, DATA_PORT, PAGES_PORT, READER_TOKEN
from deploy.engines.kubernetes.names import EVALUATOR, MASTER, SLAVE, STORE, Object, Order

DNS_PORT = 53
_API = "networking.k8s.io/v1"


def build_service(order: Order) -> Object:
    """Build the master's service: an address that stays when its pod moves."""
    ports = {"control": CONTROL_PORT, "data": DATA_PORT, "pages": PAGES_PORT}
    return order.thing(
        "v1",
        "Service",
        MASTER,
        MASTER,
        spec={
            "selector": order.labels(MASTER),
            "ports": [{"name": name, "port": port, "targetPort": port} for name, port in ports.items()],
        },
    )


def build_store_service(order: Order) -> Iterator[Object]:
    """Build the service that a stateful set asks for; each store tells the master an address of its own."""
    if order.plan.stores:
        port = {"name": "data", "port": DATA_PORT, "targetPort": DATA_PORT}
        spec = {"clusterIP": "None", "selector": order.labels(STORE), "ports": [port]}
        yield order.thing("v1", "Service", STORE, STORE, spec=spec)


def build_policies(order: Order) -> Iterator[Object]:
    """Build the policies: nothing but what is named here comes in or goes out."""
    ours = [{"podSelector": order.select()}]
    dns = [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")]
    monitoring = order.wishes.monitoring
    pages = [_from_namespace(monitoring)] if monitoring else []
    yield order.thing(
        _API,
        "NetworkPolicy",
        "",
        spec={
            "podSelector": order.select(),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": pages,
            "egress": [{"to": ours}, {"ports": dns}],
        },
    )
    callers = [{"podSelector": order.select(*order.stores, SLAVE, EVALUATOR)}]
    yield _admit(order, MASTER, {"from": callers, "ports": _tcp([CONTROL_PORT, DATA_PORT])})
    if order.plan.stores:
        readers = [{"podSelector": order.select(SLAVE, EVALUATOR)}]
        yield _admit(order, STORE, {"from": readers, "ports": _tcp([DATA_PORT])})
    if order.plan.config.cluster.direct:
        # Neighbours call each other at ports that they choose, which the master tries before a slave joins.
        yield _admit(order, SLAVE, {"from": [{"podSelector": order.select(MASTER, SLAVE)}]})


def _admit(order: Order, component: str, rule: Object) -> Object:
    spec = {"podSelector": order.select(component), "policyTypes": ["Ingress"], "ingress": [rule]}
    return order.thing(_API, "NetworkPolicy", component, component, spec=spec)


def _from_namespace(name: str) -> Object:
    namespace = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    return {"from": [namespace], "ports": _tcp([PAGES_PORT])}


def _tcp(ports: Sequence[int]) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def build_budgets(order: Order) -> Iterator[Object]:
    """Build the budgets: a drain leaves master and stores alone, and takes a slave at a time."""
    keepers = [(STORE, order.plan.stores)] if order.plan.stores else []
    for component, least in ((MASTER, 1), *keepers, (SLAVE, order.plan.slaves - 1)):
        yield order.thing(
            "policy/v1",
            "PodDisruptionBudget",
            component,
            component,
            spec={"minAvailable": least, "selector": order.select(component)},
        )


def build_monitor(order: Order) -> Iterator[Object]:
    """Build what tells Prometheus' operator of the pages, if anybody reads them."""
    if order.wishes.monitoring:
        token = {"name": order.reader, "key": Path(READER_TOKEN).name}
        endpoint = {
            "port": "pages",
            "path": "/metrics",
            "interval": "5s",
            "authorization": {"type": "Bearer", "credentials": token},
        }
        yield order.thing(
            "monitoring.coreos.com/v1",
            "PodMonitor",
            "",
            spec={
                "selector": order.select(MASTER, *order.stores, SLAVE),
                "podMetricsEndpoints": [endpoint],
            },
        )
