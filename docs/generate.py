"""Writes what the reference says from the code: ``docs/cli.md``, and the fields in ``docs/spec.md``.

Run it by ``python3 dev.py docs``. A test fails where the files differ from what it would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from types import UnionType
from typing import Annotated, Final, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sidestep.cli.commands import sidestep
from sidestep.spec import Mesh, Workload
from sidestep.spec.base import descriptions
from sidestep.spec.checked import Scalar

DOCS: Final = Path(__file__).resolve().parent
MARK: Final = "<!-- From here on written by docs/generate.py. -->\n"
_WIDTH: Final = 100


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """Each page, and what should stand in it."""
    spec = DOCS / "spec.md"
    introduction = spec.read_text(encoding="utf-8").partition(MARK)[0]
    return {spec: f"{introduction}{MARK}\n{reference()}", DOCS / "cli.md": command_line()}


def command_line() -> str:
    """Every command's help."""
    parts = ["# Commands", MARK.strip(), "Each as its `--help` says it."]
    for path, text in _helps(sidestep, "sidestep"):
        parts += [f"## {path}", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def _helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, parent, name, terminal_width=_WIDTH, color=False, help_option_names=["-h", "--help"]
    )
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from _helps(found, each, context)


def reference() -> str:
    """Every field of every kind."""
    parts = []
    for kind in (Mesh, Workload):
        parts.append(f"## Kind {kind.__name__}")
        for path, model in _objects(kind, kind.__name__):
            parts += [] if model is kind else [f"### {path}"]
            described = descriptions(model)
            rows = [
                _row(name, field, path, described.get(attribute, ""))
                for attribute, (name, field) in zip(model.model_fields, _fields(model), strict=True)
            ]
            parts += [_text(model), "| field | | default | |\n|---|---|---|---|\n" + "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _objects(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """A model and those within it, each with the kind and its path as errors give it: ``Mesh spec.services[]``."""
    yield path, model
    for name, field in _fields(model):
        within = _model(field.annotation)
        if within is not None:
            yield from _objects(within, _joined(path, name, field))


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _joined(path: str, name: str, field: FieldInfo) -> str:
    several = "[]" if _is_list(field.annotation) else ""
    return f"{path}{'.' if ' ' in path else ' '}{name}{several}"


def _model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model(each))), None)


def _row(name: str, field: FieldInfo, path: str, description: str) -> str:
    allowed = _allowed(field)
    text = _in_cell(_sentence(description)) + (f" *{_in_cell(allowed)}*" if allowed else "")
    return f"| `{name}` | {_kind(name, field, path)} | {_default(field)} | {text.strip()} |"


def _kind(name: str, field: FieldInfo, path: str) -> str:
    annotation = field.annotation
    if _model(annotation):
        joined = _joined(path, name, field)
        shown = joined.partition(" ")[2]
        return f"{'list of objects' if joined.endswith('[]') else 'object'}: [{shown}](#{_anchor(joined)})"
    if get_origin(annotation) is Literal:
        return f"`{get_args(annotation)[0]}`"
    if _is_list(annotation):
        return "list of text"
    if get_origin(annotation) is dict:
        return "text to text"
    written = {item.schema["type"] for item in _rules(field)}
    if written == {"boolean"} or bool in (annotation, *get_args(annotation)):
        return "true or false"
    return "number" if written == {"integer"} else "text"


def _is_list(annotation: object) -> bool:
    """Whether it is a list, or may be one where it is there at all."""
    if get_origin(annotation) is Annotated:
        return _is_list(get_args(annotation)[0])
    alternatives = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else ()
    return get_origin(annotation) is list or any(map(_is_list, alternatives))


def _anchor(heading: str) -> str:
    """The anchor that forges give a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{value}`" if value and not isinstance(value, BaseModel) else ""


def _allowed(field: FieldInfo) -> str:
    """What the errors of this field call allowed."""
    least = ["at least one"] if any(hasattr(item, "min_length") for item in field.metadata) else []
    found = [] if _model(field.annotation) else [rule.allowed for rule in _rules(field)]
    return f"Allowed: {'; '.join(found)}." if found else _sentence("".join(least))


def _rules(field: FieldInfo) -> list[Scalar]:
    """What a field's value is checked by; for a mapping its keys, then its values."""
    own = [item for item in field.metadata if isinstance(item, Scalar)]
    return own or [*_within(field.annotation)]


def _within(annotation: object) -> Iterator[Scalar]:
    yield from (item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Scalar))
    for each in get_args(annotation):
        yield from _within(each)


def _text(model: type[BaseModel]) -> str:
    return cleandoc(model.__doc__ or "")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
