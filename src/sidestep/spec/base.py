"""The base of every model: what is not known is refused, and nothing changes once it is read.

pydantic checks each field by itself. What fields say together is checked by plain functions over a model, its
``checks``, which also run over a model of which only some fields could be taken (`sidestep.spec.partial`): a check that
asks for a field that was refused ends there, because what it would say cannot be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

    from sidestep.spec.documents import Path


class Unknown(Exception):
    """Something was asked for that was refused, which is reported: what depends on it has nothing to add."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    path: Path
    """Where, from the model or document that is looked at."""
    message: str
    found: str = ""
    allowed: str = ""
    is_of_key: bool = False
    """Whether it is the key at the end of ``path`` that is wrong, whatever stands under it."""


Check: TypeAlias = Callable[[Any], Iterator[Finding]]


class Model(BaseModel):
    """Fields are written in camel case; their docstrings are what editors and error messages show."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True, defer_build=True)
    checks: ClassVar[tuple[Check, ...]] = ()
    """What is checked of several fields together: each yields what it finds, and knows nothing of the others."""

    @property
    def is_whole(self) -> bool:
        """Whether no field was refused."""
        return len(self.__dict__) == len(type(self).model_fields)

    def knows(self, field: str) -> bool:
        """Whether a field has a value, if only its default: it was not refused."""
        return field in self.__dict__

    def get(self, field: str) -> Any:  # noqa: ANN401  # as its type says, which mypy cannot know by name
        """The value of a field; None where it was refused, too."""
        return self.__dict__.get(field)

    def says(self, field: str) -> bool:
        """Whether the document says something in a field, though it may have been refused. May raise `Unknown`."""
        value = self.__dict__.get(field)
        if value is not None:
            return bool(value != [])
        if not self.knows(field) and field not in self.model_fields_set:
            raise Unknown(field)
        return not self.knows(field)

    def __eq__(self, other: object) -> bool:
        """As every model's; with a field that was refused in either, that cannot be told."""
        if isinstance(other, Model) and not (self.is_whole and other.is_whole):
            raise Unknown
        return super().__eq__(other)

    __hash__ = BaseModel.__hash__

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        properties, described = handler.resolve_ref_schema(made)["properties"], descriptions(cls)
        for name, field in cls.model_fields.items():
            of_field = properties[field.alias or name]
            if description := described.get(name):
                allowed = of_field.get("description")
                of_field["description"] = f"{description} Allowed: {allowed}." if allowed else description
            if isinstance(field.default, tuple):  # an address, a duration: as they are written
                of_field["default"] = str(field.default)
        return made

    if not TYPE_CHECKING:  # it would take every name for a field

        def __getattr__(self, name: str) -> object:
            """Is asked only for what is not there, so that whole models never pay for it."""
            if name in type(self).model_fields:
                raise Unknown(name)
            return super().__getattr__(name)


def findings(model: Model) -> list[Finding]:
    """What the checks of a model, and of all models in it, find in as much of it as is known."""
    found: list[Finding] = []
    _check(type(model), [((), model)], found)
    return found


def _check(kind: type[Model], models: Sequence[tuple[Path, Model]], found: list[Finding]) -> None:
    """Checks models of one kind, each with where it stands: there may be 50,000 of them."""
    for check in kind.checks:
        for path, model in models:
            try:
                for finding in check(model):
                    found.append(finding._replace(path=path + finding.path))  # noqa: PERF401  # there is hardly one
            except Unknown:
                continue
    for name, alias, inner in _checked(kind):
        held = [((*path, alias), part) for path, model in models if (part := model.__dict__.get(name)) is not None]
        if held:
            _check(inner, [each for path, part in held for each in _each(path, part)], found)


def _each(path: Path, part: Model | list[Model]) -> list[tuple[Path, Model]]:
    """The models in the value of a field."""
    return [((*path, index), model) for index, model in enumerate(part)] if isinstance(part, list) else [(path, part)]


def known(found: Iterator[Finding]) -> Iterator[Finding]:
    """What is found before something unknown is asked for."""
    try:
        yield from found
    except Unknown:
        return


@cache
def _checked(kind: type[Model]) -> list[tuple[str, str, type[Model]]]:
    """The fields of a model with models in them that are checked: attribute, name in the document, and their kind."""
    fields = [(name, field.alias or name, model_in(field.annotation)) for name, field in kind.model_fields.items()]
    return [(name, alias, inner) for name, alias, inner in fields if inner and (inner.checks or _checked(inner))]


def model_in(annotation: object) -> type[Model] | None:
    """The model inside ``Annotated[list[Model], …]``, ``Model | None`` or ``Model``."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((model for inner in get_args(annotation) if (model := model_in(inner))), None)


def descriptions(model: type[BaseModel]) -> Mapping[str, str]:
    """The docstrings of a model's fields, by name.

    They are read from the source when somebody asks: pydantic would do it for every model when it is imported, which
    takes longer than reading a small document.
    """
    import ast
    from inspect import cleandoc, getsource
    from itertools import pairwise
    from textwrap import dedent

    found: dict[str, str] = {}
    for each in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        [definition] = ast.parse(dedent(getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(docstring))) if (
                    name in model.model_fields
                ):
                    found[name] = cleandoc(docstring)
    return found
