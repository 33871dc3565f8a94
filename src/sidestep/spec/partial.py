"""A model of a document that is wrong in places: of what is sound in it, so that the rest can still be checked."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import TypeAdapter

from sidestep.spec.base import Model, Unknown, model_in
from sidestep.spec.documents import MERGE

if TYPE_CHECKING:
    from sidestep.spec.documents import Path

M = TypeVar("M", bound=Model)
Wrong: TypeAlias = "dict[str | int, Wrong]"
"""The steps to what is wrong in a value; none where it is wrong itself."""


def partial(kind: type[M], value: object, paths: Iterable[Path]) -> M:
    """What there is of a model in ``value``, in which all that stands at ``paths``, and nothing else, is wrong.

    Whoever asks it for a field that is wrong gets `Unknown`. An item of a list keeps its place, even if nothing of it
    could be taken.
    """
    wrong: Wrong = {}
    for path in paths:
        node = wrong
        for step in path:
            node = node.setdefault(step, {})
    return _partial(kind, value, wrong)


def _partial(kind: type[M], value: object, wrong: Wrong) -> M:
    given = value if isinstance(value, dict) else {}
    known = {}
    for name, field in kind.model_fields.items():
        alias = field.alias or name
        try:
            if alias in wrong or given is not value:
                known[name] = _rest(model_in(field.annotation), given.get(alias), wrong.get(alias, {}))
            elif alias in given:
                known[name] = _adapter(kind, name).validate_python(given[alias])
            elif MERGE not in given:
                known[name] = field.get_default(call_default_factory=True)
        except Unknown:
            continue
    said = {name for name, field in kind.model_fields.items() if (field.alias or name) in given}
    model = kind.model_construct(said, **known)
    for name in kind.model_fields.keys() - known:
        model.__dict__.pop(name, None)
    return model


def _rest(kind: type[Model] | None, value: object, wrong: Wrong) -> object:
    """What is left of a field that is wrong, or in which something is. Raises `Unknown` where nothing is."""
    if kind and wrong and isinstance(value, dict):
        return _partial(kind, value, wrong)
    if kind and wrong and isinstance(value, list):
        return [
            _partial(kind, each, wrong[at]) if at in wrong else kind.model_validate(each)
            for at, each in enumerate(value)
        ]
    raise Unknown


@cache
def _adapter(kind: type[Model], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(kind.model_fields[name].rebuild_annotation())
