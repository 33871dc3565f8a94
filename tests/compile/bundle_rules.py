"""What must hold for the bundle as a whole: its bootstrap, its paths, its files."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidestep.spec import Machine
    from tests.compile.made import Made


def admin_is_a_socket_of_the_owner(made: Made) -> None:
    forwarder = {"ignore_global_conn_limit": True} if made.machine.workload.spec.clients else {}
    assert made.bootstrap["admin"] == {"address": {"pipe": {"path": "./admin.sock", "mode": 0o600}}, **forwarder}


def statistics_are_limited(made: Made) -> None:
    patterns = made.bootstrap["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    for name, wanted in STATISTICS.items():
        assert is_included(name, patterns) == wanted, name


def is_included(name: str, patterns: list[Any]) -> bool:
    """Whether Envoy is to keep a statistic."""
    return any(re.fullmatch(pattern["safe_regex"]["regex"], name) for pattern in patterns)


STATISTICS = {
    "cluster.outbound|9080||a_b.upstream_rq_total": True,
    "cluster.outbound|9080||a_b.upstream_rq_5xx": True,
    "cluster.outbound|9080||a_b.ssl.fail_verify_san": True,
    "cluster.outbound|9080||a_b.upstream_cx_connect_fail": True,
    "cluster.outbound|9080||a_b.client_ssl_socket_factory.upstream_context_secrets_not_ready": True,
    "listener.127_0_0_1_9080.downstream_cx_total": True,
    "listener.unix_run_app_sock.no_filter_chain_match": True,
    "http.egress_http.downstream_rq_5xx": True,
    "listener_manager.lds.update_rejected": True,
    "cluster_manager.cds.update_success": True,
    "proxy_proto.not_found_disallowed": True,
    "cluster.outbound|9080||a_b.client_ssl_socket_factory.downstream_context_secrets_not_ready": False,
    "listener.127_0_0_1_9080.worker_0.downstream_cx_total": False,
    "cluster.outbound|9080||a_b.upstream_rq_503": False,
    "cluster.outbound|9080||a_b.assignment_stale": False,
    "cluster.outbound|9080||a_b.circuit_breakers.default.cx_open": False,
    "cluster.outbound|9080||a_b.http2.rx_reset": False,
    "cluster.outbound|9080||a_b.lb_healthy_panic": False,
}


def every_path_is_within_the_bundle(made: Made) -> None:
    paths = [path for name, value in made.files.items() if name != "manifest.json" for path in _paths(value)]
    paths = [path for path in paths if path not in _requested(made.machine)]
    assert "./certs/key.pem" in paths
    elsewhere = {listen.removeprefix("unix:") for listen in made.listens()}
    for path in paths:
        if path in elsewhere:
            continue
        assert path == "." or path.startswith("./"), path
        assert ".." not in path


def _requested(machine: Machine) -> set[str]:
    """Paths of requests: what a health check asks for."""
    checks = [port.spec.health_check for port in machine.ingress]
    return {check.http_get.path for check in checks if check and check.http_get}


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in {"path", "filename"} and isinstance(inner, str) and not inner.startswith("%"):
                yield inner
            yield from _paths(inner) if key != "http_health_check" else ()
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def nothing_secret_can_be_read_by_others(made: Made) -> None:
    assert made.tree.directories["certs"] == 0o700
    for name, content in made.contents.items():
        assert b"PRIVATE KEY" not in content
        assert "key" not in name
    for name, file in made.tree.files.items():
        assert not file.mode & 0o133, f"{name} can be written or executed by others"


def the_manifest_tells_what_is_there(made: Made) -> None:
    manifest = made.files["manifest.json"]
    others = {name: content for name, content in made.contents.items() if name != "manifest.json"}
    assert manifest["sha256"] == {name: sha256(content).hexdigest() for name, content in others.items()}
    assert manifest["identity"] == made.machine.identity
