"""The library's front door: documents in, a machine's bundle out.

::

    spec = onboard.load(["mesh.yaml", "billing.yaml"])
    [bundle] = onboard.bundles(spec)
    bundle.install(Path("bundle"), validate=proxy.find().validate)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from sidestep import spec as documents
from sidestep.compile import Plan, compile_machine
from sidestep.errors import OutputError, Problem, SpecError
from sidestep.files import FileTree, exclusive, put_in_place, staged, translated, write_file
from sidestep.outputs import envoy

if TYPE_CHECKING:
    from sidestep.spec import Machine, Spec

Validate = Callable[[Path, str], None]
"""Takes a directory and the name of a bootstrap in it; raises `EnvoyRejected` where Envoy refuses that."""

VALIDATION: Final = ".validation.json"


def load(files: Iterable[str], *, transcoding: bool = True) -> Spec:
    """Reads documents from files (``-`` is standard input). Raises `SpecError` with every problem found.

    Without ``transcoding`` what they say of it is left out, and the descriptors it names need not be there yet.
    """
    return documents.load(files, datetime.now(UTC), _compile_protos if transcoding else None)


def _compile_protos(directory: Path, protos: Sequence[str], import_paths: Sequence[str]) -> bytes:
    from sidestep.descriptors.protoc import compile_protos  # which imports subprocess: only where there are any

    return compile_protos(directory, protos, import_paths)


def bundles(spec: Spec, workload: str | None = None) -> list[Bundle]:
    """The bundle of every workload, or of the one that is called ``NAME`` or ``NAMESPACE/NAME``. Raises `SpecError`."""
    machines = [machine for machine in spec.machines if workload in {None, *_names(machine)}]
    if not machines or (workload is not None and len(machines) > 1):
        known = ", ".join(_names(machine)[1] for machine in spec.machines)
        allowed = known or "a document of kind Workload"
        if workload is None:
            raise SpecError([Problem("documents", 0, 0, "", "", allowed, "there is no workload among them")])
        message = "several workloads have this name" if machines else "there is no such workload"
        raise SpecError([Problem("--workload", 0, 0, "", workload, allowed, message)])
    return [Bundle(compile_machine(machine)) for machine in machines]


def manifest(directory: Path) -> Mapping[str, Any]:
    """The manifest of the bundle in ``directory``. Raises `OutputError` where there is none, or none of ours."""
    from sidestep.outputs.manifest import wrong  # more models: only for who reads one

    try:
        found = _manifest(directory / envoy.MANIFEST)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be read: {error.strerror}") from error
    if found is None:
        raise OutputError(f"{directory}: holds no bundle", hint="sidestep render makes one.")
    if field := wrong(found):
        message = f"{directory / envoy.MANIFEST}: {field} is not as sidestep render writes it"
        raise OutputError(message, hint="Render the bundle again, and trust none that others can write to.")
    return found


def directory_names(bundles: Sequence[Bundle]) -> list[str]:
    """A directory name for each of several bundles: the workload's, with its namespace where two share it."""
    metadata = [bundle.plan.machine.workload.metadata for bundle in bundles]
    count = Counter(each.name for each in metadata)
    return [each.name if count[each.name] == 1 else f"{each.name}.{each.namespace}" for each in metadata]


def _names(machine: Machine) -> tuple[str, str]:
    metadata = machine.workload.metadata
    return metadata.name, f"{metadata.namespace}/{metadata.name}"


@dataclass(frozen=True)
class Installed:
    """What came of installing a bundle."""

    directory: Path
    new: bool
    changed: tuple[str, ...]
    """Files that were written."""
    kept: tuple[str, ...]
    """Files that an issuer has put there since, and that were left as they are."""

    @property
    def restart(self) -> bool:
        """Whether a running Envoy must be restarted: all but the bootstrap it re-reads by itself."""
        return not self.new and envoy.BOOTSTRAP in self.changed

    @property
    def state(self) -> Literal["created", "updated", "unchanged"]:
        """The outcome in one word."""
        return "created" if self.new else "updated" if self.changed else "unchanged"


@dataclass(frozen=True)
class Bundle:
    """One machine's files, ready to be put in place."""

    plan: Plan

    @property
    def workload(self) -> dict[str, str]:
        """Name and namespace of the workload."""
        metadata = self.plan.machine.workload.metadata
        return {"name": metadata.name, "namespace": metadata.namespace}

    @property
    def tree(self) -> FileTree:
        """The files."""
        return envoy.render(self.plan)

    def install(self, directory: Path, *, validate: Validate | None, force: bool = False) -> Installed:
        """Puts the bundle into ``directory``, new or over an earlier one of the same workload, once Envoy accepts it.

        If anything fails, what was there stays whole. With ``force`` other people's files of the same names are
        replaced too; with None for ``validate`` no Envoy is asked. Raises `OutputError` and what ``validate`` raises.
        """
        with exclusive(directory):
            present = _Present.read(directory)
            if not force:
                present.check_whose(self)
            with staged(self.tree, directory) as made:
                changed, kept = present.compare(made.digests, force=force)
                if validate:
                    self._submit(made.directory, validate)
                put_in_place(made, directory, changed)
        return Installed(directory, present.manifest is None, tuple(changed), tuple(kept))

    def _submit(self, staging: Path, validate: Validate) -> None:
        with translated(staging.parent):
            write_file(staging / VALIDATION, envoy.validation(self.plan))
        validate(staging, VALIDATION)


@dataclass(frozen=True)
class _Present:
    """What is in a directory before a bundle goes there."""

    directory: Path
    entries: frozenset[str]
    manifest: Mapping[str, object] | None

    @classmethod
    def read(cls, directory: Path) -> _Present:
        try:
            entries = frozenset(path.name for path in directory.iterdir())
            return cls(directory, entries, _manifest(directory / envoy.MANIFEST))
        except FileNotFoundError:
            return cls(directory, frozenset(), None)
        except OSError as error:
            raise OutputError(f"{directory}: cannot be read: {error.strerror}") from error

    def check_whose(self, bundle: Bundle) -> None:
        """Raises `OutputError` where something is there that is not ours, or another workload's."""
        if self.manifest is None:
            foreign = sorted(self.entries - {"certs"})
            if foreign:
                raise self._not_ours(f"holds {', '.join(foreign[:5])}, and no bundle")
        elif self.manifest.get("workload") != (workload := bundle.workload):
            raise self._not_ours(
                f"holds the bundle of another workload, not of {workload['namespace']}/{workload['name']}"
            )

    def compare(self, made: Mapping[str, str], *, force: bool) -> tuple[list[str], list[str]]:
        """The files to put in place, in order, and those that are an issuer's by now; ``made`` are the new digests.

        Unless ``force``, raises `OutputError` where others have been edited.
        """
        found = {name: self._digest(name) for name in made}
        different = [name for name, digest in made.items() if found[name] != digest]
        others = [name for name in different if found[name] not in {None, self._written(name)}]
        edited = [name for name in others if name not in {envoy.ROOTS, envoy.MANIFEST}]
        if edited and not force:
            raise self._not_ours(f"{', '.join(edited)} changed since the bundle was rendered")
        kept = [name for name in others if name == envoy.ROOTS]
        return [name for name in different if name not in kept], kept

    def _not_ours(self, reason: str) -> OutputError:
        return OutputError(f"{self.directory}: {reason}", hint="Choose another directory, or replace it with --force.")

    def _written(self, name: str) -> object:
        """The digest of the file that we put there."""
        digests = (self.manifest or {}).get("sha256")
        return digests.get(name) if isinstance(digests, dict) else None

    def _digest(self, name: str) -> str | None:
        path = self.directory / name
        try:
            if path.is_fifo() or path.is_char_device():  # which may give nothing, or never end
                raise OutputError(f"{path} is no file, so it is not ours to replace")
            with path.open("rb") as stream:
                return file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error


def _manifest(path: Path) -> Mapping[str, object] | None:
    """The manifest of a bundle of ours; None for anything else."""
    try:
        manifest = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == envoy.KIND else None
