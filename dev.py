#!/usr/bin/env python3
"""Work on Sidestep: ``python3 dev.py lab``, ``test``, ``check``, ``lock``. Needs Python 3.11 and pip; sets up the rest.

Everything is installed into ``.venv`` here, in the versions and with the hashes of ``requirements/``.
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
LAYOUT = ["src", "tests", "bench", "dev.py"]


def main() -> None:
    """Run the command that the first argument names."""
    commands = {"lab": lab, "test": test, "check": check, "lock": lock, "install": install}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        sys.exit(f"usage: python3 dev.py {{{','.join(commands)}}} [ARGUMENT…]\n\n{__doc__}")
    commands[name](sys.argv[2:])


def lab(arguments: list[str]) -> None:
    """The mini mesh, as ``sidestep lab``."""
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


def lock(arguments: list[str]) -> None:
    """Pin anew what ``pyproject.toml`` asks for; needs uv. ``--upgrade`` takes newer versions."""
    uv = shutil.which("uv") or sys.exit("lock needs uv on PATH")
    for name, wanted in {"lab": ["--group", "build"], "dev": ["--group", "dev"]}.items():
        pins = ["--universal", "--generate-hashes", "--no-annotate", "--no-emit-index-url", "--no-header"]
        target = ["-o", f"requirements/{name}.txt", "--custom-compile-command", "python3 dev.py lock"]
        _run([uv, "pip", "compile", "-q", "pyproject.toml", "--extra", "lab", *wanted, *pins, *target, *arguments])


def _set_up(name: str) -> None:
    pins = HERE / "requirements" / f"{name}.txt"
    wanted = hashlib.sha256(pins.read_bytes() + (HERE / "pyproject.toml").read_bytes()).hexdigest()
    installed = STAMP.read_text().split() if STAMP.exists() else []
    if wanted in installed:
        return
    print(f"Setting up .venv with requirements/{name}.txt (once; a minute or so) …", file=sys.stderr, flush=True)
    if not PYTHON.exists():
        _run([sys.executable, "-m", "venv", "--without-pip", ENVIRONMENT])
    _install(["--require-hashes", "-r", pins])
    _install(["--no-deps", "--no-build-isolation", "-e", HERE])
    STAMP.write_text("\n".join([*installed, wanted]))


def _install(arguments: list[str | Path]) -> None:
    """Through uv where there is one, else through the pip of this Python."""
    if uv := shutil.which("uv"):
        _run([uv, "pip", "install", "-q", "--python", PYTHON, *arguments])
    else:
        pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", PYTHON, "--disable-pip-version-check"]
        _run([*pip, "install", "-q", "--no-warn-script-location", *arguments])


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
