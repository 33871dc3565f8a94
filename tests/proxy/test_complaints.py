"""What matters in an Envoy's log."""

from __future__ import annotations

from sidestep.proxy.complaints import essential


def test_the_gravest_complaints_are_told_and_once() -> None:
    def entry(level: str, text: str) -> str:
        return f"[2026-11-23 21:25:05.034][5065][{level}][main] [source/server/server.cc:76] {text}\n"

    assert essential(entry("warning", "w") + entry("critical", "c1\nmore") + entry("error", "e")) == "c1 more"
    assert essential(entry("warning", "w") * 3 + entry("info", "i")) == "w"
    assert essential("a\n\nb\nc\nd\n") == "b\nc\nd"
    assert essential("") == ""
    assert len(essential(entry("error", "x" * 10_000))) <= 700


def test_what_a_crash_was_about_is_told_and_not_its_addresses() -> None:
    def entry(logger: str, text: str) -> str:
        return f"[2026-11-23 22:37:05.586][10038][critical][{logger}] [source/server/x.cc:25] {text}\n"

    addresses = entry("backtrace", "Caught Aborted") + entry("backtrace", "#0: [0x7fcb03356050]")
    assert essential(entry("assert", "assert failure: a >= 0. Details: b") + addresses) == (
        "assert failure: a >= 0. Details: b"
    )
    assert essential(addresses) == "Caught Aborted\n#0: [0x7fcb03356050]"
