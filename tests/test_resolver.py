"""The DNS server: right for the mesh's names over UDP and TCP, silent about everything else."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import dns.asyncquery
import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest

from sidestep.errors import OutputError
from sidestep.resolver import Resolver, Upstream, Zone
from tests import documents
from tests.commands import run as run_command
from tests.free_ports import free_port

NAMES = {"reviews.bookinfo": "127.77.0.9", "reviews.bookinfo.svc.cluster.local": "127.77.0.9"}
Ask = Callable[[dns.message.Message, int], Coroutine[Any, Any, dns.message.Message]]


async def udp(query: dns.message.Message, port: int) -> dns.message.Message:
    return await dns.asyncquery.udp(query, "127.0.0.1", 2, port)


async def tcp(query: dns.message.Message, port: int) -> dns.message.Message:
    return await dns.asyncquery.tcp(query, "127.0.0.1", 2, port)


WAYS = pytest.mark.parametrize("ask", [udp, tcp])


def resolve(ask: Ask, *queries: dns.message.Message) -> list[dns.message.Message]:
    async def run() -> list[dns.message.Message]:
        async with Resolver(Zone(NAMES), "127.0.0.1", 0) as resolver:
            return [await ask(query, resolver.port) for query in queries]

    return asyncio.run(run())


@WAYS
@pytest.mark.parametrize("name", ["reviews.bookinfo", "ReViews.BookInfo", "reviews.bookinfo.svc.cluster.local."])
def test_a_name_of_ours_has_its_address_in_any_case(ask: Ask, name: str) -> None:
    [response] = resolve(ask, dns.message.make_query(name, "A"))
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert [str(record) for rrset in response.answer for record in rrset] == ["127.77.0.9"]
    asked = dns.name.from_text(name)
    assert response.question[0].name.labels == asked.labels, "the asker's letters are kept (0x20)"


@WAYS
@pytest.mark.parametrize("kind", ["AAAA", "TXT", "SRV", "HTTPS", "MX", "SOA", "CNAME"])
def test_its_other_types_have_no_data(ask: Ask, kind: str) -> None:
    [response] = resolve(ask, dns.message.make_query("reviews.bookinfo", kind))
    assert response.rcode() == dns.rcode.NOERROR, "NXDOMAIN would make resolvers forget the A record"
    assert not response.answer
    assert response.authority[0].rdtype == dns.rdatatype.SOA


@WAYS
@pytest.mark.parametrize("name", ["reviews", "bookinfo", "x.reviews.bookinfo", "example.com", "."])
def test_any_other_name_is_refused(ask: Ask, name: str) -> None:
    [response] = resolve(ask, dns.message.make_query(name, "A"))
    assert response.rcode() == dns.rcode.REFUSED
    assert not response.answer


@WAYS
def test_edns_is_answered_with_edns_and_only_then(ask: Ask) -> None:
    with_edns = dns.message.make_query("reviews.bookinfo", "A", use_edns=0, payload=4096)
    without = dns.message.make_query("reviews.bookinfo", "A", use_edns=False)
    assert [response.edns for response in resolve(ask, with_edns, without)] == [0, -1]


@WAYS
def test_what_is_no_query_is_told_so(ask: Ask) -> None:
    update = dns.message.make_query("reviews.bookinfo", "A")
    update.set_opcode(dns.opcode.STATUS)
    [response] = resolve(ask, update)
    assert response.rcode() == dns.rcode.NOTIMP


def test_garbage_gets_formerr_or_nothing_and_does_no_harm() -> None:
    async def run() -> list[bytes]:
        async with Resolver(Zone(NAMES), "127.0.0.1", 0) as resolver:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                asker.setblocking(False)
                asker.connect(("127.0.0.1", resolver.port))
                loop = asyncio.get_running_loop()
                for wire in (
                    b"",
                    b"short",
                    b"\x12\x34\x80\x00" + bytes(8),
                    b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xff",
                ):
                    asker.send(wire)
                first = await asyncio.wait_for(loop.sock_recv(asker, 512), 2)
                asker.send(dns.message.make_query("reviews.bookinfo", "A").to_wire())
                return [first, await asyncio.wait_for(loop.sock_recv(asker, 512), 2)]

    garbage, answer = asyncio.run(run())
    assert (garbage[:2], garbage[3] & 0x0F) == (b"\x12\x34", dns.rcode.FORMERR)
    assert dns.message.from_wire(answer).answer


def test_many_queries_share_a_tcp_connection() -> None:
    async def run() -> list[int]:
        async with Resolver(Zone(NAMES), "127.0.0.1", 0) as resolver:
            reader, writer = await asyncio.open_connection("127.0.0.1", resolver.port)
            ids = []
            for _ in range(3):
                query = dns.message.make_query("reviews.bookinfo", "A").to_wire()
                writer.write(struct.pack("!H", len(query)) + query)
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = dns.message.from_wire(await reader.readexactly(length))
                ids.append(len(answer.answer))
            writer.close()
            await writer.wait_closed()
            return ids

    assert asyncio.run(run()) == [1, 1, 1]


@asynccontextmanager
async def forwarding(names: dict[str, str]) -> AsyncIterator[Resolver]:
    async with (
        Resolver(Zone(names), "127.0.0.1", 0) as upstream,
        Resolver(Zone(NAMES), "127.0.0.1", 0, Upstream("127.0.0.1", upstream.port)) as resolver,
    ):
        yield resolver


@WAYS
def test_other_names_are_forwarded_where_one_says_so(ask: Ask) -> None:
    async def run() -> list[dns.message.Message]:
        async with forwarding({"example.com": "192.0.2.1", "reviews.bookinfo": "192.0.2.66"}) as resolver:
            queries = [
                dns.message.make_query(name, "A") for name in ("example.com", "reviews.bookinfo", "nobody.example")
            ]
            return [await ask(query, resolver.port) for query in queries]

    theirs, ours, nobodys = asyncio.run(run())
    assert str(theirs.answer[0][0]) == "192.0.2.1"
    assert str(ours.answer[0][0]) == "127.77.0.9", "a name of ours never leaves the machine"
    assert nobodys.rcode() == dns.rcode.REFUSED


@WAYS
def test_an_upstream_that_is_gone_is_a_failure_not_a_missing_name(ask: Ask) -> None:
    async def run() -> dns.message.Message:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
        async with Resolver(Zone(NAMES), "127.0.0.1", 0, Upstream("127.0.0.1", port)) as resolver:
            query = dns.message.make_query("example.com", "A")
            return (
                await dns.asyncquery.tcp(query, "127.0.0.1", 8, resolver.port)
                if ask is tcp
                else (await dns.asyncquery.udp(query, "127.0.0.1", 8, resolver.port))
            )

    assert asyncio.run(run()).rcode() == dns.rcode.SERVFAIL


@WAYS
@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 3)])
def test_a_query_with_more_than_a_question_is_not_read(ask: Ask, counts: tuple[int, ...]) -> None:
    """Reading thousands of records that point at long names takes seconds, in which nobody else is answered."""

    async def run() -> bytes:
        question = dns.message.make_query("reviews.bookinfo", "A").to_wire()
        wire = question[:4] + struct.pack("!4H", *counts) + question[12:]
        async with Resolver(Zone(NAMES), "127.0.0.1", 0) as resolver:
            if ask is tcp:
                reader, writer = await asyncio.open_connection("127.0.0.1", resolver.port)
                writer.write(struct.pack("!H", len(wire)) + wire)
                answer = (await reader.readexactly(14))[2:]
                writer.close()
                return answer
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_sendto(client, wire, ("127.0.0.1", resolver.port))
                return await asyncio.get_running_loop().sock_recv(client, 512)

    answer = asyncio.run(run())
    assert answer[3] & 15 == dns.rcode.FORMERR


Answers = Callable[[dns.message.Message], list[dns.message.Message]]


class Answering(asyncio.DatagramProtocol):
    """An upstream over UDP that says to each query what ``answers`` makes of it."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for message in self.answers(dns.message.from_wire(data)):
            self.transport.sendto(message.to_wire(), addr)


async def answering(answers: Answers, port: int = 0) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Answering(answers), local_addr=("127.0.0.1", port))
    return transport


def test_the_upstream_is_not_asked_with_the_askers_id() -> None:
    """Who knows it could answer in the upstream's place, and all who ask the same would hear that."""
    seen: list[int] = []

    def noting(query: dns.message.Message) -> list[dns.message.Message]:
        seen.append(query.id)
        return [dns.message.make_response(query)]

    async def run() -> list[int]:
        transport = await answering(noting)
        upstream = Upstream("127.0.0.1", transport.get_extra_info("sockname")[1])
        async with Resolver(Zone(NAMES), "127.0.0.1", 0, upstream) as resolver:
            queries = [dns.message.make_query(f"{n}.example.com", "A", id=4242) for n in range(3)]
            answers = [await udp(query, resolver.port) for query in queries]
        transport.close()
        return [answer.id for answer in answers]

    assert asyncio.run(run()) == [4242] * 3
    assert len({*seen}) > 1


@WAYS
def test_an_upstream_that_cuts_short_and_then_hangs_up_is_a_failure(ask: Ask) -> None:
    def truncating(query: dns.message.Message) -> list[dns.message.Message]:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return [response]

    async def run() -> dns.message.Message:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = await answering(truncating, port)
        async with Resolver(Zone(NAMES), "127.0.0.1", 0, Upstream("127.0.0.1", port)) as resolver:
            response = await ask(dns.message.make_query("example.com", "A"), resolver.port)
        transport.close()
        server.close()
        return response

    assert asyncio.run(run()).rcode() == dns.rcode.SERVFAIL


def test_an_address_that_is_taken_is_a_clear_error() -> None:
    async def run() -> None:
        async with Resolver(Zone(NAMES), "127.0.0.1", 0) as resolver, Resolver(Zone(NAMES), "127.0.0.1", resolver.port):
            pass

    with pytest.raises(OutputError, match=r"cannot listen on 127\.0\.0\.1:"):
        asyncio.run(run())


def test_a_later_edns_is_refused_and_told_which_one_is_known() -> None:
    query = dns.message.make_query("reviews.bookinfo", "A", use_edns=1)
    [response] = resolve(udp, query)
    assert (response.rcode(), response.edns, response.answer) == (dns.rcode.BADVERS, 0, [])


def test_an_upstream_that_asks_us_in_turn_is_asked_once() -> None:
    async def run() -> tuple[dns.rcode.Rcode, int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        async with Resolver(Zone(NAMES), "127.0.0.1", port, Upstream("127.0.0.1", port)) as resolver:
            seen = 0
            datagram = resolver.datagram

            def counted(*arguments: Any) -> None:
                nonlocal seen
                seen += 1
                datagram(*arguments)

            resolver.datagram = counted  # type: ignore[method-assign, assignment]
            response = await dns.asyncquery.udp(dns.message.make_query("example.com", "A"), "127.0.0.1", 8, port)
            return response.rcode(), seen

    code, seen = asyncio.run(run())
    assert code == dns.rcode.SERVFAIL
    assert seen == 2


def test_a_forged_answer_does_not_stand_for_the_true_one() -> None:
    def forged_first(query: dns.message.Message) -> list[dns.message.Message]:
        forged = dns.message.make_response(query)
        forged.id ^= 1
        forged.set_rcode(dns.rcode.NXDOMAIN)
        return [forged, dns.message.make_response(query)]

    async def run() -> dns.message.Message:
        transport = await answering(forged_first)
        upstream = Upstream("127.0.0.1", transport.get_extra_info("sockname")[1])
        async with Resolver(Zone(NAMES), "127.0.0.1", 0, upstream) as resolver:
            answer = await udp(dns.message.make_query("example.com", "A"), resolver.port)
        transport.close()
        return answer

    assert asyncio.run(run()).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("address", ["0.0.0.0:5353", "192.0.2.1:5353", "[::]:5353", "[2001:db8::1]:53"])
def test_it_listens_for_this_machine_only(tmp_path: Path, address: str) -> None:
    ran = run_command("dns", tmp_path, "--listen", address)
    assert ran.code == 2
    assert "an address of this machine only" in ran.err


def test_it_is_not_its_own_upstream(tmp_path: Path) -> None:
    ran = run_command("dns", tmp_path, "--listen", "127.0.0.1:5353", "--forward", "127.0.0.1:5353")
    assert (ran.code, "is this server itself" in ran.err) == (2, True)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files")
def test_a_flood_for_others_takes_nothing_from_our_names(tmp_path: Path) -> None:
    """Each question to an upstream takes a socket, and files to open are few."""
    workload = documents.workload(addresses={})
    file = documents.write(tmp_path / "spec.yaml", documents.mesh(), workload)
    assert run_command("render", file, "-o", tmp_path / "bundle", "--unsafe-skip-validation").code == 0
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, socket.socket(type=socket.SOCK_DGRAM) as asker:
        silent.bind(("127.0.0.1", 0))
        options = ["--listen", f"127.0.0.1:{port}", "--forward", f"127.0.0.1:{silent.getsockname()[1]}"]
        command = [sys.executable, "-m", "sidestep", "dns", str(tmp_path / "bundle"), *options]
        limited = ["sh", "-c", 'ulimit -n 200 && exec "$@"', "sh", *command]
        with subprocess.Popen(limited, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr
            said = server.stderr.readline()
            try:
                for number in range(1000):
                    wire = dns.message.make_query(f"n{number}.example", "A").to_wire()
                    asker.sendto(wire, ("127.0.0.1", port))
                    time.sleep(0.0005)
                ours = dns.message.make_query("reviews.bookinfo", "A")
                answers = [asyncio.run(ask(ours, port)) for ask in (udp, tcp)]
            finally:
                server.terminate()
            said += server.stderr.read()
    assert [len(answer.answer) for answer in answers] == [1, 1]
    assert said.count("\n") == 1, said
