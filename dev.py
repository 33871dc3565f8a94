#!/usr/bin/env python3
"""Work on Sidestep. Needs Python 3.11 or newer, and pip; sets up the rest.

Everything is installed into .venv beside this file, in the versions and with the hashes of requirements/.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
STAMP = ENVIRONMENT / ".installed"
"""What is installed: nothing where it is missing, as after an installation that failed."""
PINNED = ("lab", "dev")
"""Files of ``requirements/``; each holds what the one before it holds, and more."""


def main() -> None:
    """Run the command that the first argument names."""
    commands = {each.__name__: each for each in (lab, test, check, install, docs, lock)}
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in {"-h", "--help"}:
        lines = [f"  {name:<8} {command.__doc__}" for name, command in commands.items()]
        print("usage: python3 dev.py COMMAND [ARGUMENT…]", "", *lines, "", (__doc__ or "").strip(), sep="\n")
    elif name not in commands:
        sys.exit(f"dev.py: no command {name!r}; there are {', '.join(commands)}")
    elif sys.version_info < (3, 11):  # noqa: UP036 (what runs this file may be any Python)
        sys.exit(f"Sidestep needs Python 3.11 or newer; this is {sys.version.split()[0]}, {sys.executable}")
    else:
        commands[name](arguments)


def lab(arguments: list[str]) -> None:
    """The mini mesh: sidestep lab ARGUMENT…"""
    _set_up("lab")
    _become(["-m", "sidestep", "lab", *arguments])


def test(arguments: list[str]) -> None:
    """The tests, on every core; arguments go to pytest."""
    _set_up("dev")
    chosen = arguments or ["-n", "auto", "--dist", "loadgroup"]
    _become(["-m", "pytest", *chosen])


def check(_arguments: list[str]) -> None:
    """Style, types and layers."""
    _set_up("dev")
    _run([BIN / "ruff", "format", "--check", "."])
    _run([BIN / "ruff", "check", "."])
    _run([BIN / "mypy"])
    _run([BIN / "lint-imports"])


def install(_arguments: list[str]) -> None:
    """Only the environment, for editors."""
    _set_up("dev")


def docs(_arguments: list[str]) -> None:
    """Write the reference in docs/ anew from the code."""
    _set_up("dev")
    _run([PYTHON, "docs/generate.py"])


def lock(arguments: list[str]) -> None:
    """Pin anew what pyproject.toml asks for (needs uv; with --upgrade in the newest versions)."""
    uv = shutil.which("uv") or sys.exit("lock needs uv on PATH")
    for name, wanted in {"lab": ["--group", "build"], "dev": ["--group", "dev"]}.items():
        pins = ["--universal", "--generate-hashes", "--no-annotate", "--no-emit-index-url", "--no-header"]
        target = ["-o", f"requirements/{name}.txt", "--custom-compile-command", "python3 dev.py lock"]
        _run([uv, "pip", "compile", "-q", "pyproject.toml", "--extra", "lab", *wanted, *pins, *target, *arguments])


def _set_up(name: str) -> None:
    wanted = _digest(name)
    installed = STAMP.read_text().split() if STAMP.exists() else []
    if wanted in installed:
        return
    print(f"Setting up .venv with requirements/{name}.txt (once; a minute or so) …", file=sys.stderr, flush=True)
    if not PYTHON.exists():
        _run([sys.executable, "-m", "venv", "--without-pip", ENVIRONMENT])
    STAMP.unlink(missing_ok=True)
    _install(["--require-hashes", "-r", HERE / "requirements" / f"{name}.txt"])
    _install(["--no-deps", "--no-build-isolation", "-e", HERE])
    # What other pins had put there may be gone, so only what is wanted still counts; dev holds all of lab.
    held = {_digest(each) for each in PINNED[: PINNED.index(name) + 1]}
    current = {_digest(each) for each in PINNED}
    STAMP.write_text("\n".join(sorted(held | (current & set(installed)))))


def _digest(name: str) -> str:
    files = (HERE / "requirements" / f"{name}.txt", HERE / "pyproject.toml")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _install(arguments: list[str | Path]) -> None:
    """Through uv where there is one, else through the pip of this Python."""
    if uv := shutil.which("uv"):
        _run([uv, "pip", "install", "-q", "--python", PYTHON, *arguments])
    else:
        pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "install", "-q"]
        _run([*pip, "--no-warn-script-location", *arguments])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], cwd=HERE, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _become(arguments: list[str]) -> None:
    """Replace this process, so that signals reach what was asked for."""
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    os.execv(PYTHON, [str(PYTHON), *arguments])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
