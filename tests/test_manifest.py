"""Bundles of others: what a manifest may not bring into a hosts file, a shell or an environment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidestep import onboard
from sidestep.errors import OutputError

Manifest = dict[str, Any]


def bundle(directory: Path, change: Callable[[Manifest], object]) -> Path:
    manifest: Manifest = {
        "kind": "Bundle",
        "workload": {"name": "billing", "namespace": "vms"},
        "egress": [
            {"listen": "127.77.0.9:9080", "host": "reviews.bookinfo", "port": 9080, "protocol": "HTTP"},
        ],
        "names": {"127.77.0.9": ["reviews.bookinfo"]},
        "of": "a later version",
    }
    change(manifest)
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


WRONG: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "a line in a name": (lambda m: m["names"].update({"127.77.0.9": ["a\n192.0.2.1 bank.example"]}), "names.0"),
    "two names in one": (lambda m: m["names"].update({"127.77.0.9": ["a bank.example"]}), "names.0"),
    "no address": (lambda m: m["names"].update({"192.0.2.1 bank.example\n#": ["a"]}), "names"),
    "a line in the workload": (lambda m: m["workload"].update(namespace="x\n192.0.2.1 bank\n#"), "workload.namespace"),
    "a terminal's escape": (lambda m: m["workload"].update(name="\x1b]0;x\x07"), "workload.name"),
    "LD_PRELOAD": (lambda m: m["egress"][0].update(host="ld", port="preload"), "egress.0.port"),
    "no address to listen on": (lambda m: m["egress"][0].update(listen="/tmp/x.so:"), "egress.0.listen"),
    "no address of a proxy": (lambda m: m.update(proxy="x'; true; '"), "proxy"),
    "no workload": (lambda m: m.pop("workload"), "workload"),
    "an address of elsewhere": (lambda m: m["names"].update({"203.0.113.66": ["github.com"]}), "names"),
    "no names": (lambda m: m.pop("names"), "names"),
    "no egress": (lambda m: m.pop("egress"), "egress"),
    "no list": (lambda m: m.update(egress={"a": 1}), "egress"),
}


@pytest.mark.parametrize(("change", "field"), WRONG.values(), ids=WRONG)
def test_what_no_manifest_of_ours_says_is_refused(
    tmp_path: Path, change: Callable[[Manifest], object], field: str
) -> None:
    with pytest.raises(OutputError, match=rf"manifest\.json: {field} is not"):
        onboard.manifest(bundle(tmp_path / "bundle", change))


def test_what_is_not_known_yet_is_left_alone(tmp_path: Path) -> None:
    assert onboard.manifest(bundle(tmp_path / "bundle", lambda _: None))["of"] == "a later version"


def test_a_machine_that_is_only_called_can_run_commands(tmp_path: Path) -> None:
    only_called = bundle(tmp_path / "bundle", lambda m: m.update(egress=[], names={}))
    command = [sys.executable, "-m", "sidestep", "exec", str(only_called), "--", sys.executable, "-c", "print('ran')"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout == "ran\n"
