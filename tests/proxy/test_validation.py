"""Whether an Envoy takes a configuration, and the reason if not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sidestep.errors import EnvoyNotFound, EnvoyRejected, EnvoyStopped
from sidestep.proxy.binary import Envoy
from sidestep.proxy.validation import validate
from tests.proxy.static import ENVOY, HOST, echo, script, write_static


def test_a_good_configuration_is_taken_without_opening_its_ports(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        write_static(tmp_path, echo("one", taken.getsockname()[1]))
        validate(ENVOY, tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unexpected EOF"),
        ('{"static_resources":{"listenrs":[]}}', "no such field: 'listenrs'"),
        ('{"static_resources":{"clusters":[{"name":""}]}}', r"ClusterValidationError.Name: value length"),
        ('{"static_resources":{"x":"' + "y" * 100_000 + '"}}', "no such field: 'x'"),
        ('{"node":{"metadata":{"x":"' + "y" * 100_000 + '"}},"admin":{"address":{"pipe":{}}}}', "PipeValidationError"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_reason_alone(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "envoy.json").write_text(text)
    with pytest.raises(EnvoyRejected, match=reason) as refused:
        validate(ENVOY, tmp_path)
    assert len(str(refused.value)) < 900
    assert "goo.gle" not in str(refused.value)
    assert "yyyy" not in str(refused.value)


def test_a_missing_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EnvoyRejected, match=r"other\.json: Invalid path: other\.json"):
        validate(ENVOY, tmp_path, "other.json")
    with pytest.raises(EnvoyNotFound, match="cannot run"):
        validate(ENVOY, tmp_path / "nowhere")


def test_an_envoy_that_gives_no_answer_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    def playing(text: str) -> Envoy:
        return Envoy(script(tmp_path, text), (1, 40, 0), "", "")

    with pytest.raises(EnvoyStopped, match="did not finish validating"):
        validate(playing("exec sleep 60"), tmp_path, timeout=0.2)
    with pytest.raises(EnvoyStopped, match="ended by SIGKILL"):
        validate(playing("kill -9 $$"), tmp_path)
    with pytest.raises(EnvoyRejected, match="out of luck"):
        validate(playing("echo out of luck >&2; exit 1"), tmp_path)
    with pytest.raises(EnvoyRejected, match="gave no reason"):
        validate(playing("exit 1"), tmp_path)
