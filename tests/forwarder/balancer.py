"""A load balancer of connections, such as clouds have: it sends new ones to where ``/healthz/ready`` says 200.

It prints each target that it takes out. With ``--proxy-protocol`` it says who its clients are.

``python -m tests.forwarder.balancer LISTEN TARGET... --health PORT [--proxy-protocol VERSION]``
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from ipaddress import IPv4Address
from itertools import count

PERIOD = 0.1
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""What version 2 of the PROXY protocol begins with."""


async def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("listen")
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--health", type=int)
    parser.add_argument("--proxy-protocol", type=int, choices=[0, 1, 2], default=0)
    arguments = parser.parse_args()
    healthy: set[str] = set()
    turns = count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        choice = sorted(healthy)[next(turns) % len(healthy)]
        host, _, port = choice.rpartition(":")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        client, here = writer.get_extra_info("peername")[:2], writer.get_extra_info("sockname")[:2]
        other_writer.write(header(arguments.proxy_protocol, client, here))
        await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))

    await _probe(arguments.targets, arguments.health, healthy)
    host, _, port = arguments.listen.rpartition(":")
    async with await asyncio.start_server(serve, host, int(port)):
        print("ready", flush=True)
        while True:
            await asyncio.sleep(PERIOD)
            await _probe(arguments.targets, arguments.health, healthy)


def header(version: int, client: tuple[str, int], here: tuple[str, int]) -> bytes:
    """What the PROXY protocol has before a connection's bytes; nothing for version 0."""
    if version == 1:
        return f"PROXY TCP4 {client[0]} {here[0]} {client[1]} {here[1]}\r\n".encode()
    if version == 2:
        addresses = IPv4Address(client[0]).packed + IPv4Address(here[0]).packed
        ports = client[1].to_bytes(2, "big") + here[1].to_bytes(2, "big")
        return SIGNATURE + b"\x21\x11\x00\x0c" + addresses + ports
    return b""


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _probe(targets: list[str], port: int, healthy: set[str]) -> None:
    for target in targets:
        if await _is_healthy(target.rpartition(":")[0], port):
            healthy.add(target)
        elif target in healthy:
            healthy.discard(target)
            print(target, flush=True)


async def _is_healthy(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /healthz/ready HTTP/1.1\r\nhost: health\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return False
    return b" 200 " in answer.split(b"\r\n")[0]


if __name__ == "__main__":
    asyncio.run(main())
