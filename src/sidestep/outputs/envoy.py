"""A plain Envoy directory: what a stock ``envoy -c envoy.json`` runs, without anything of ours.

::

    envoy.json          bootstrap; changing it takes a restart
    cds.json lds.json   clusters and listeners, watched
    rds.json            the names that its proxy knows, where it has one; watched
    clients.htpasswd    who may use its proxy, where that asks for passwords
    sds/                where the certificate and the roots are read from, watched
    descriptors/        what REST calls are transcoded by, where there are any
    certs/              cert-chain.pem, key.pem, root-cert.pem: put there by whoever issues them, watched
    manifest.json       what the bundle was made from, and a digest of every other file
"""

from __future__ import annotations

import re
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson

from sidestep import __version__
from sidestep.compile.envoy import transcoding
from sidestep.compile.envoy.forwarder import CREDENTIALS
from sidestep.compile.envoy.secrets import DIRECTORY
from sidestep.compile.names import local_names
from sidestep.files import File, FileTree, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidestep.compile import Plan
    from sidestep.compile.envoy.resources import Json, Resource
    from sidestep.files import Output
    from sidestep.spec import Machine

BOOTSTRAP: Final = "envoy.json"
MANIFEST: Final = "manifest.json"
ROUTES: Final = "rds.json"
ROOTS: Final = f"{DIRECTORY.removeprefix('./')}/root-cert.pem"
KIND: Final = "Bundle"
_DESCRIPTOR_FILE: Final = re.compile(rf"{transcoding.DIRECTORY}/[0-9a-f]{{16}}\.pb")
_PRIVATE: Final = 0o700
_AT_ONCE: Final = 16
"""Resources that are written together."""


def render(plan: Plan) -> FileTree:
    """The bundle's files. The same plan gives the same bytes."""
    descriptors = _descriptors(plan.machine)
    files = {
        **descriptors,  # before the listeners, which name them
        BOOTSTRAP: _file(plan.bootstrap),
        "cds.json": _discovery(plan.clusters),
        # Before the listener that reads it: Envoy refuses a source that is not there.
        **({ROUTES: _discovery(plan.routes)} if plan.routes else {}),
        "lds.json": _discovery(plan.listeners),
        "sds/identity.json": _discovery([plan.identity]),
        "sds/roots.json": _discovery([plan.roots]),
    }
    if plan.machine.credentials:
        # Before the listener that reads it. Hashes without salt are nothing for others to read.
        files = {CREDENTIALS: File.of(plan.machine.credentials, 0o600), **files}
    if plan.machine.roots:
        files[ROOTS] = File.of(plan.machine.roots)
    directories = {"sds": 0o755, DIRECTORY.removeprefix("./"): _PRIVATE}
    if descriptors:
        directories[transcoding.DIRECTORY] = 0o755
    return FileTree(files, directories, Manifest(MANIFEST, partial(_manifest, plan.machine)))


def is_optional(name: str) -> bool:
    """Whether a file is one that not every bundle has, and that nobody needs where a bundle has none."""
    return name in {ROUTES, CREDENTIALS} or bool(_DESCRIPTOR_FILE.fullmatch(name))


def validation(plan: Plan) -> File:
    """A bootstrap for ``envoy --mode validate``, to be run in the bundle's directory."""
    return File(partial(_write_static, plan.inline()))


def _write_static(plan: Plan, output: Output) -> None:
    output.write(orjson.dumps(plan.bootstrap)[:-1])
    output.write(b',"static_resources":{"clusters":')
    _write_list(plan.clusters, output)
    output.write(b',"listeners":')
    _write_list(plan.listeners, output)
    output.write(b"}}")


def _descriptors(machine: Machine) -> dict[str, File]:
    """The descriptor sets for transcoding. Their names change with what they hold."""
    transcodings = [port.transcoding for port in machine.egress if port.transcoding]
    files = {transcoding.descriptor_file(each): File.of(each.descriptor) for each in transcodings}
    return dict(sorted(files.items()))


def _discovery(resources: Iterable[Resource]) -> File:
    return File(partial(_write_discovery, resources))


def _write_discovery(resources: Iterable[Resource], output: Output) -> None:
    """A DiscoveryResponse. Its version is a digest, so that the admin API tells which file an Envoy has taken."""
    output.write(b'{"resources":')
    _write_list(resources, output)
    # Last, so that one pass makes the file and the digest of what comes before it.
    output.write(b',"version_info":"%s"}\n' % output.digest[:16].encode())


def _write_list(resources: Iterable[Resource], output: Output) -> None:
    """A JSON array, written as its items are made: together they would take more memory than time."""
    remaining, opening = iter(resources), b"["
    while some := [*islice(remaining, _AT_ONCE)]:
        output.write(opening)
        output.write(memoryview(orjson.dumps(some))[1:-1])
        opening = b","
    output.write(b"]" if opening == b"," else b"[]")


def _file(value: Json) -> File:
    return File.of(_readable(value))


def _readable(value: Json) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _manifest(machine: Machine, digests: Mapping[str, str]) -> bytes:
    return _readable({**manifest(machine), "sha256": digests})


def manifest(machine: Machine) -> Resource:
    """What a bundle says of itself, but for the digests of its files."""
    metadata, proxy = machine.workload.metadata, machine.workload.spec.proxy
    return {
        "apiVersion": machine.workload.api_version,
        "kind": KIND,
        "identity": machine.identity,
        "workload": {"name": metadata.name, "namespace": metadata.namespace},
        "mesh": machine.mesh.metadata.name,
        "sidestep": __version__,
        "egress": [
            {
                "listen": port.address,
                "host": port.service.host,
                "port": port.number,
                **({"subset": port.traffic.subset} if port.traffic.subset else {}),
                "protocol": port.protocol,
            }
            for port in machine.egress
        ],
        "ingress": [
            {
                "port": port.number,
                "protocol": port.protocol,
                "listen": str(port.listen),
                "application": str(port.application),
            }
            for port in machine.ingress
        ],
        **({"proxy": str(proxy.listen)} if proxy else {}),
        "names": local_names(machine),
    }
