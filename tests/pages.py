"""The documents as a reader has them: what they say to type, what they show, where they point."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
}

_FENCE = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    info: str
    """What stands behind the fence: the language, and whatever we add."""
    text: str
    file: str = ""
    """The file that the page says it is."""


@dataclass(frozen=True)
class Typed:
    """A command to type, and what the page shows of its answer."""

    command: str
    answer: list[str] = field(default_factory=list)


def blocks(page: str, language: str = "") -> list[Block]:
    """The blocks of a page, or those in one language."""
    found = [Block(match["info"], match["text"], match["file"] or "") for match in _FENCE.finditer(PAGES[page])]
    return [block for block in found if not language or block.info.partition(" ")[0] == language]


def typed(page: str) -> list[Typed]:
    """Every line that a page says to type, in order."""
    commands: list[Typed] = []
    for block in blocks(page, "console"):
        for line in block.text.splitlines():
            if line.startswith("$ "):
                commands.append(Typed(re.sub(r"\s{2,}#.*", "", line.removeprefix("$ "))))
            else:
                commands[-1].answer.append(line)
    return commands


def links(page: str) -> list[str]:
    """Every target of a link or an image."""
    return _LINK.findall(_FENCE.sub("", PAGES[page]))


def anchors(page: str) -> set[str]:
    """The anchors that a forge gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", PAGES[page]), re.MULTILINE)
    return {"".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_") for heading in headings}


def rows(page: str, below: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = PAGES[page].partition(f"## {below}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = table[0].splitlines()[2:] if table else []
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
