"""A small DNS server for the names of a bundle's services: their local addresses, and nothing else of its own.

It answers ``A`` for exactly those names, has no data (NOERROR, no answer) for their other types, and refuses or
forwards whatever it does not know. It never changes how the machine resolves names: `docs/names.md` shows how to send
it the mesh's names only. Envoy's own DNS filter is no alternative: it answers AAAA with NXDOMAIN, knows no TCP, and
heeds the case of letters (facts/envoy.md b).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, cast

import dns.asyncquery
import dns.entropy
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from sidestep.errors import OutputError

TTL: Final = 30
"""Seconds. Addresses hardly ever change, and a bundle that is rendered anew should be heard soon."""
_MAX_UDP: Final = 1232
"""Bytes that pass every path unfragmented (DNS flag day 2020)."""
_FORWARD_SECONDS: Final = 4.0
_IDLE_SECONDS: Final = 30.0
_MAX_CONNECTIONS: Final = 128
_MOST_OTHERS: Final = 2
"""Additional records of a query: EDNS, and a signature."""
_MAX_FORWARDED: Final = 512
"""Questions that wait for the upstream at once; more are dropped. Each takes a socket, as one over TCP does."""


@dataclass(frozen=True)
class Upstream:
    """A DNS server to forward to what is not ours."""

    address: str
    port: int = 53


class Zone:
    """Names and their addresses, as answers."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = {dns.name.from_text(name).canonicalize(): address for name, address in addresses.items()}

    def __contains__(self, name: dns.name.Name) -> bool:
        return name.canonicalize() in self._addresses

    def answer(self, query: dns.message.Message) -> dns.message.Message | None:
        """The answer to a query for one of our names; None for any other."""
        if code := _unanswerable(query):
            return _response(query, code)
        question = query.question[0]
        address = self._addresses.get(question.name.canonicalize())
        if address is None or question.rdclass not in {dns.rdataclass.IN, dns.rdataclass.ANY}:
            return None
        response = _response(query, dns.rcode.NOERROR)
        response.flags |= dns.flags.AA
        if question.rdtype in {dns.rdatatype.A, dns.rdatatype.ANY}:
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", address))
        else:
            response.authority.append(_start_of_authority(question.name))
        return response


def _unanswerable(query: dns.message.Message) -> dns.rcode.Rcode | None:
    """Why nobody could answer a query, whatever its name."""
    if query.edns > 0:  # RFC 6891 §6.1.3
        return dns.rcode.BADVERS
    if query.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    return None if len(query.question) == 1 else dns.rcode.FORMERR


def refusal(query: dns.message.Message) -> dns.message.Message:
    """What is said to a query for a name that is not ours, without an upstream."""
    return _response(query, dns.rcode.REFUSED)


def _response(query: dns.message.Message, code: dns.rcode.Rcode) -> dns.message.Message:
    response = dns.message.make_response(query, our_payload=_MAX_UDP)
    response.set_rcode(code)
    return response


def _start_of_authority(name: dns.name.Name) -> dns.rrset.RRset:
    """Tells resolvers how long they may remember that there is no such data (RFC 2308 §5)."""
    return dns.rrset.from_text(name, TTL, "IN", "SOA", f"{name} sidestep.invalid. 1 {TTL} {TTL} {TTL} {TTL}")


class Resolver:
    """Serves a zone on one address, over UDP and TCP: ``async with Resolver(zone, address, port): …``."""

    def __init__(self, zone: Zone, address: str, port: int, upstream: Upstream | None = None) -> None:
        self._zone = zone
        self._address = address
        self._port = port
        self._upstream = upstream
        self._connections: set[asyncio.Task[None]] = set()
        self._forwards: set[asyncio.Task[None]] = set()
        self._asked: dict[bytes, asyncio.Task[dns.message.Message]] = {}
        """What the upstream is being asked, without the ID: the same question again waits for the same answer."""
        self._most_connections, self._most_forwarded = map(_affordable, (_MAX_CONNECTIONS, _MAX_FORWARDED))
        self._server: asyncio.Server | None = None
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> Resolver:
        """Raises `OutputError` where the address cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await asyncio.start_server(self._stream, self._address, self._port)
            port = self._server.sockets[0].getsockname()[1]
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(self._address, port)
            )
        except OSError as error:
            await self.__aexit__()
            hint = "Ports below 1024 need root; 127.0.0.1:5353 does not." if isinstance(error, PermissionError) else ""
            reason = error.strerror or str(error)
            raise OutputError(f"cannot listen on {self._address}:{self._port}: {reason}", hint=hint) from error
        self._port = port
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport:
            self._transport.close()
        if self._server:
            self._server.close()
        tasks: list[asyncio.Task[Any]] = [*self._connections, *self._forwards, *self._asked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def datagram(self, wire: bytes, transport: asyncio.DatagramTransport, sender: tuple[str, int]) -> None:
        """One query over UDP."""
        query = _parsed(wire)
        if isinstance(query, bytes):
            transport.sendto(query, sender)
        elif query is not None:
            response = self._zone.answer(query)
            if response is not None or self._upstream is None:
                transport.sendto(_udp(query, response or refusal(query)), sender)
            elif len(self._forwards) < self._most_forwarded:
                task = asyncio.get_running_loop().create_task(self._forward_datagram(query, transport, sender))
                self._forwards.add(task)
                task.add_done_callback(self._forwards.discard)

    async def _forward_datagram(
        self, query: dns.message.Message, transport: asyncio.DatagramTransport, sender: tuple[str, int]
    ) -> None:
        transport.sendto(_udp(query, await self._forwarded(query)), sender)

    async def _forwarded(self, query: dns.message.Message) -> dns.message.Message:
        """The upstream's answer as it is; SERVFAIL when there is none.

        An upstream that sends the question back to us would have it go round until it times out: it is asked once.
        """
        question = query.to_wire(max_size=65535)[2:]
        if question not in self._asked:
            asking = self._asked[question] = asyncio.get_running_loop().create_task(self._ask(query))
            asking.add_done_callback(lambda _: self._asked.pop(question))
        response = copy(await asyncio.shield(self._asked[question]))
        response.id = query.id
        return response

    async def _ask(self, query: dns.message.Message) -> dns.message.Message:
        assert self._upstream is not None
        asked = copy(query)
        asked.id = dns.entropy.random_16()  # the asker's own is known to the asker, who may forge an answer for others
        try:
            response, _ = await dns.asyncquery.udp_with_fallback(
                asked,
                self._upstream.address,
                _FORWARD_SECONDS,
                self._upstream.port,
                ignore_unexpected=True,
                ignore_errors=True,  # a forged answer with a wrong ID must not stand for the true one
            )
        except (OSError, EOFError, dns.exception.DNSException):  # dnspython's for a connection that ends early
            return _response(query, dns.rcode.SERVFAIL)
        return response

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: any number of queries, each behind its length (RFC 7766)."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= self._most_connections:
                # Cancelled: the server ends, and before 3.12 asyncio would print that.
                with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self._queries(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _queries(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                query = _parsed(await reader.readexactly(length))
            if query is None:
                return
            answer = query if isinstance(query, bytes) else (await self._answer(query)).to_wire(max_size=65535)
            writer.write(struct.pack("!H", len(answer)) + answer)
            async with asyncio.timeout(_IDLE_SECONDS):  # one who never reads is no better than one who never asks
                await writer.drain()

    async def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = self._zone.answer(query)
        if response is not None:
            return response
        return await self._forwarded(query) if self._upstream else refusal(query)


def _affordable(most: int) -> int:
    """``most``, but no more than a quarter of the files that this process may open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return most
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit == resource.RLIM_INFINITY else min(most, limit // 4)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # before 3.12 it is none by type

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._resolver.datagram(data, self._transport, addr)


def _parsed(wire: bytes) -> dns.message.Message | bytes | None:
    """The query; or FORMERR, as it goes on the wire, for what cannot be read; None for what deserves no answer."""
    if len(wire) < 12 or wire[2] & 0x80:  # too short to answer, or itself a response
        return None
    questions, answers, authorities, others = struct.unpack("!4H", wire[4:12])
    # Thousands of records can be made to take seconds each time.
    if (questions, answers, authorities) == (1, 0, 0) and others <= _MOST_OTHERS:
        with suppress(dns.exception.DNSException, ValueError, struct.error):
            return dns.message.from_wire(wire)
    return wire[:2] + bytes([0x80 | (wire[2] & 0x79), dns.rcode.FORMERR]) + bytes(8)


def _udp(query: dns.message.Message, response: dns.message.Message) -> bytes:
    """Cut to what the asker can take, with the flag that sends it to TCP for the rest."""
    size = min(max(query.payload, 512), _MAX_UDP) if query.edns >= 0 else 512
    try:
        return response.to_wire(max_size=size)
    except dns.exception.TooBig:
        short = _response(query, response.rcode())
        short.flags |= dns.flags.TC
        return short.to_wire(max_size=size)
