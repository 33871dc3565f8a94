"""A document brought to its model, with all that is wrong in it."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from sidestep.spec import checked
from sidestep.spec.base import Finding, Model, descriptions, findings, model_in
from sidestep.spec.documents import MERGE, REFUSED, shown
from sidestep.spec.model import API_VERSION, Mesh, Workload
from sidestep.spec.partial import partial

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from sidestep.spec.documents import Document, Path
    from sidestep.spec.report import Report

KINDS: Final[Mapping[str, type[Mesh] | type[Workload]]] = {"Mesh": Mesh, "Workload": Workload}
_KEY: Final = "[key]"
"""What pydantic adds to the path of a key that is wrong, in a mapping whose keys are checked."""
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("required, and missing", ""),
    "list_type": ("wrong type", "a list"),
    "dict_type": ("wrong type", "a mapping"),
    "bool_type": ("wrong type", "true or false"),
    "model_type": ("wrong type", ""),
    "too_short": ("empty", "at least one"),
}


def validated(document: Document, report: Report) -> Mesh | Workload | None:
    """The document as far as it is sound, or None where not even its kind is known; reports what is wrong."""
    value = document.value
    if value is REFUSED:
        return None
    if not isinstance(value, dict):
        allowed = "a mapping with apiVersion, kind, metadata and spec"
        report.add(document, Finding((), "not a document of ours", shown(value), allowed))
        return None
    if value.get("apiVersion") not in (API_VERSION, REFUSED):
        report.add(document, _of_head(value, "apiVersion", "unknown version", [API_VERSION]))
    kind = value.get("kind")
    if kind not in (*KINDS, REFUSED):
        report.add(document, _of_head(value, "kind", "unknown kind", KINDS))
        kind = next(iter(_near(kind, KINDS)), None)
    if not isinstance(kind, str):
        return None
    model = _model(document, KINDS[kind], {**value, "apiVersion": API_VERSION, "kind": kind}, report)
    report.add(document, *findings(model))
    return model


def _of_head(value: Mapping[str, object], field: str, message: str, allowed: Collection[str]) -> Finding:
    """What is wrong with the kind of a document, or with the version of that."""
    if field not in value:
        if meant := get_close_matches(field, value, 1):
            return _unknown(tuple(meant), Mesh)  # every kind has the same at its head
        return Finding((field,), "required, and missing", allowed=", ".join(allowed))
    near = "".join(f", did you mean {each}?" for each in _near(value[field], allowed))
    return Finding((field,), f"{message}{near}", shown(value[field]), ", ".join(allowed))


def _near(value: object, allowed: Collection[str]) -> list[str]:
    return get_close_matches(value.title(), allowed, 1) if isinstance(value, str) else []


def _model(
    document: Document, kind: type[Mesh] | type[Workload], value: Mapping[str, object], report: Report
) -> Mesh | Workload:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    misspelt = set(_misspelt(document, kind, errors))
    told = [each for each in errors if each["input"] is not REFUSED and not _may_be_there(each, misspelt)]
    report.add(document, *(_finding(kind, each) for each in told))
    return partial(kind, value, [*misspelt, *map(_path, errors)])


def _misspelt(document: Document, kind: type[Model], errors: Sequence[ErrorDetails]) -> Iterator[Path]:
    """Fields that seem to be there under a name that is not quite theirs: nothing else is to be said of them."""
    for each in errors:
        if each["type"] == "extra_forbidden":
            *around, name = each["loc"]
            meant = _meant(_model_at(kind, tuple(around)), str(name))
            holder = document.at(tuple(around))
            if meant and isinstance(holder, dict) and meant not in holder:
                yield (*around, meant)


def _may_be_there(details: ErrorDetails, misspelt: Container[Path]) -> bool:
    """Whether what is said to be missing may stand under another name, or in a mapping that was refused."""
    return details["type"] == "missing" and (details["loc"] in misspelt or MERGE in details["input"])


def _path(details: ErrorDetails) -> Path:
    return details["loc"][:-1] if _is_of_key(details) else details["loc"]


def _is_of_key(details: ErrorDetails) -> bool:
    *around, last = details["loc"]
    return last == _KEY and around[-1:] == [details["input"]] and details["type"] != "extra_forbidden"


def _finding(kind: type[Model], details: ErrorDetails) -> Finding:
    path = _path(details)
    message, allowed = _WORDS.get(details["type"], (details["msg"], ""))
    value = details["input"]
    found = shown(value)
    if details["type"] == checked.NOT_ALLOWED:
        message, allowed = checked.message(details)
        found = "" if isinstance(value, (dict, list)) else found
    elif details["type"] == "extra_forbidden":
        return _unknown(path, _model_at(kind, path[:-1]))
    elif details["type"] == "model_type":
        allowed = _mapping(kind, path)
    elif details["type"] == "missing":
        found, allowed = "", _fields(_model_at(kind, path[:-1])).get(str(path[-1]), "") or _mapping(kind, path)
    return Finding(path, message, found, allowed, _is_of_key(details))


def _mapping(kind: type[Model], path: Path) -> str:
    return f"a mapping with {', '.join(_fields(_model_at(kind, path)))}"


def _unknown(path: Path, model: type[Model] | None) -> Finding:
    name = str(path[-1])
    near = _meant(model, name)
    message = f"unknown field{f', did you mean {near}?' if near else ''}"
    return Finding(path, message, shown(name), ", ".join(_fields(model)), is_of_key=True)


@cache
def _fields(model: type[Model] | None) -> Mapping[str, str]:
    """The names of a model's fields, and of each the first sentence that describes it."""
    described = descriptions(model) if model else {}
    fields = model.model_fields.items() if model else ()
    return {field.alias or name: described.get(name, "").partition(". ")[0].removesuffix(".") for name, field in fields}


@lru_cache(maxsize=10_000)
def _meant(model: type[Model] | None, name: str) -> str:
    return next(iter(get_close_matches(name, _fields(model), 1)), "")


def _model_at(kind: type[Model], path: Path) -> type[Model] | None:
    return _model_below(kind, tuple(step for step in path if isinstance(step, str)))


@cache
def _model_below(kind: type[Model], names: Sequence[str]) -> type[Model] | None:
    model: type[Model] | None = kind
    for name in names:
        fields = model.model_fields if model else {}
        annotation = next((field.annotation for key, field in fields.items() if (field.alias or key) == name), None)
        model = model_in(annotation)
    return model
