"""The library's front door: documents in, a machine's bundle out.

::

    spec = onboard.load(["mesh.yaml", "billing.yaml"])
    [bundle] = onboard.bundles(spec)
    bundle.install(Path("bundle"), validate=partial(validate, find()))

with `sidestep.proxy.binary.find` and `sidestep.proxy.validation.validate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import orjson

from sidestep import spec as documents
from sidestep.compile import Plan, compile_machine
from sidestep.errors import OutputError, Problem, SpecError
from sidestep.files import NotAFile, announce, create, digest_of, exclusive, in_place, read, staged, translated
from sidestep.outputs import envoy

if TYPE_CHECKING:
    from sidestep.files import FileTree, Staged
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

    found = _manifest(directory / envoy.MANIFEST)
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


class Installed(NamedTuple):
    """What came of installing a bundle."""

    directory: Path
    new: bool
    changed: tuple[str, ...]
    """Files that were written."""
    removed: tuple[str, ...]
    """Files of the bundle before that this one does not have."""
    kept: tuple[str, ...]
    """Files that an issuer has put there since, and that were left as they are."""

    @property
    def restart(self) -> bool:
        """Whether a running Envoy must be restarted: all but the bootstrap it re-reads by itself."""
        return not self.new and envoy.BOOTSTRAP in self.changed

    @property
    def state(self) -> Literal["created", "updated", "unchanged"]:
        """The outcome in one word."""
        return "created" if self.new else "updated" if self.changed or self.removed else "unchanged"


class Bundle(NamedTuple):
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

        As `prepared` and then at once `Prepared.installed`.
        """
        with (
            self.prepared(directory, validate=validate, force=force) as prepared,
            prepared.installed() as installed,
        ):
            return installed

    @contextmanager
    def prepared(self, directory: Path, *, validate: Validate | None, force: bool = False) -> Iterator[Prepared]:
        """The bundle, accepted by Envoy and ready to be put into ``directory``; nobody else writes there within.

        If anything fails, what was there stays whole. With ``force`` other people's files of the same names are
        replaced too; with None for ``validate`` no Envoy is asked. Raises `OutputError` and what ``validate`` raises.
        """
        with exclusive(directory):
            present = _Present.read(directory)
            if not force:
                present.check_whose(self)
            with staged(self.tree, directory, present.roots()) as made:
                prepared = Prepared(present, made, force=force)
                if validate:
                    self._submit(made.directory, validate)
                yield prepared

    def _submit(self, staging: Path, validate: Validate) -> None:
        with translated(staging.parent):
            create(staging / VALIDATION, envoy.validation(self.plan), durable=False)
        validate(staging, VALIDATION)
        (staging / VALIDATION).unlink()


class Prepared:
    """A bundle that is only to be put in place."""

    def __init__(self, present: _Present, made: Staged, *, force: bool) -> None:
        self._present = present
        self._made = made
        self._found = present.digests(made.digests)
        different = [name for name, digest in made.digests.items() if self._found[name] != digest]
        others = [name for name in different if self._found[name] not in {None, present.written(name)}]
        edited = [name for name in others if name not in {envoy.ROOTS, envoy.MANIFEST}]
        if edited and not force:
            raise present.not_ours(f"{', '.join(edited)} changed since the bundle was rendered")
        self._kept = tuple(name for name in others if name == envoy.ROOTS)
        self._changed = tuple(name for name in different if name not in self._kept)

    @contextmanager
    def installed(self) -> Iterator[Installed]:
        """Puts it in place, and takes that back if anything fails within.

        Raises `OutputError`, also where somebody has changed a file of it meanwhile.
        """
        present, made = self._present, self._made
        now = present.digests(made.digests)
        if touched := [name for name, digest in now.items() if digest != self._found[name]]:
            message = f"{present.directory}: {', '.join(touched)} changed while the bundle was made"
            raise OutputError(message, hint="Nothing was replaced: look at it, and render again.")
        removed = tuple(present.stale(made.digests))
        with in_place(made, present.directory, self._changed, removed):
            yield Installed(present.directory, present.manifest is None, self._changed, removed, self._kept)
        if not self._changed:
            announce(present.directory)


class _Present(NamedTuple):
    """What is in a directory before a bundle goes there."""

    directory: Path
    entries: frozenset[str]
    manifest: Mapping[str, object] | None

    @classmethod
    def read(cls, directory: Path) -> _Present:
        try:
            entries = frozenset(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return cls(directory, frozenset(), None)
        except OSError as error:
            raise OutputError(f"{directory}: cannot be read: {error.strerror}") from error
        return cls(directory, entries, _manifest(directory / envoy.MANIFEST))

    def check_whose(self, bundle: Bundle) -> None:
        """Raises `OutputError` where something is there that is not ours, or another workload's."""
        if self.manifest is None:
            foreign = sorted(self.entries - {"certs", "lost+found"})
            if foreign:
                raise self.not_ours(f"holds {', '.join(foreign[:5])}, and no bundle")
        elif self.manifest.get("workload") != (workload := bundle.workload):
            raise self.not_ours(
                f"holds the bundle of another workload, not of {workload['namespace']}/{workload['name']}"
            )

    def not_ours(self, reason: str) -> OutputError:
        """The error of what is not to be replaced."""
        return OutputError(f"{self.directory}: {reason}", hint="Choose another directory, or replace it with --force.")

    def written(self, name: str) -> str | None:
        """The digest of a file as an earlier render has written it."""
        digests = (self.manifest or {}).get("sha256")
        digest = digests.get(name) if isinstance(digests, dict) else None
        return digest if isinstance(digest, str) else None

    def digests(self, names: Iterable[str]) -> dict[str, str | None]:
        """The digests of what is there by these names; None where nothing is, empty where a link leads nowhere."""
        return {name: self._digest(self.directory / name) for name in names}

    def roots(self) -> dict[str, str]:
        """The digest of the roots if they are as we wrote them: they stay ours where a spec names no roots any more."""
        digest = self.written(envoy.ROOTS)
        return {envoy.ROOTS: digest} if digest and digest == self._digest(self.directory / envoy.ROOTS) else {}

    def stale(self, made: Container[str]) -> list[str]:
        """Files that are as an earlier render wrote them, and that a bundle with those in ``made`` does not have."""
        digests = (self.manifest or {}).get("sha256")
        names = [name for name in digests if envoy.is_optional(name)] if isinstance(digests, dict) else []
        gone = [name for name in names if name not in made and self.written(name)]
        return [name for name in gone if self._digest(self.directory / name) == self.written(name)]

    def _digest(self, path: Path) -> str | None:
        try:
            return digest_of(path)
        except FileNotFoundError:
            return "" if path.is_symlink() else None
        except NotAFile as error:
            raise OutputError(f"{path} is no file, so it is not ours to replace") from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error


def _manifest(path: Path) -> Mapping[str, object] | None:
    """The manifest of a bundle of ours; None for anything else. Raises `OutputError` for what cannot be read."""
    try:
        manifest = orjson.loads(read(path))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == envoy.KIND else None
