"""Commands that the documents and the helps show, as a reader would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
_FENCE = re.compile(r"^\s*```")
_INLINE = re.compile(r"`([^`\n]+)`")
_ENDS = ("|", ">", "2>", ">>", "<", "&&", "||", ";", "&", "2>&1")
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
#: Words for which a reader puts in something of their own.
_PLACEHOLDER = re.compile(r"…|\.\.\.|<[^>]+>|^[A-Z][A-Z_-]*(=.*)?$|^\[.*")


@dataclass(frozen=True)
class ShownCommand:
    """One command line of a document.

    Attributes:
        whole: from a code block, to be typed as it stands; otherwise only mentioned.
        words: its words, without assignments before and pipes after it.
        environment: the assignments.
    """

    where: str
    whole: bool
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """The program's name, without its folder."""
        return Path(self.words[0]).name

    @property
    def exact(self) -> bool:
        """Whether nothing in it is left to the reader to fill in."""
        return not any(is_placeholder(word) for word in self.words)

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.words)}"


def is_placeholder(word: str) -> bool:
    """Whether a word stands for something that the reader puts in."""
    return _PLACEHOLDER.search(word) is not None


def shown_commands(path: Path) -> Iterator[ShownCommand]:
    """The commands of a document: the lines of its code blocks, and what it quotes in a sentence."""
    fenced, blank, before, kept = False, True, False, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{path.relative_to(ROOT)}:{number}"
        if _FENCE.match(line):
            fenced = not fenced
            continue
        # An indented block begins after an empty line; otherwise the line belongs to a list.
        block = fenced or (line.startswith("    ") and (blank or before))
        blank, before = not line.strip(), block
        if block:
            kept += line.strip()
            if kept.endswith("\\"):
                kept = kept[:-1]
                continue
            yield from _commands(where, kept, whole=True)
            kept = ""
        else:
            for quoted in _INLINE.findall(line):
                yield from _commands(where, quoted, whole=False)


def _commands(where: str, text: str, *, whole: bool) -> Iterator[ShownCommand]:
    try:
        words = list(shlex.split(text, comments=True))
    except ValueError:
        return
    if words[:1] == ["$"]:
        words.pop(0)
    environment: list[str] = []
    while words and _ASSIGNMENT.fullmatch(words[0]):
        environment.append(words.pop(0))
    rest: list[str] = []
    for word in words:
        if word in _ENDS:
            break
        if word.endswith(";"):
            rest.append(word[:-1])
            break
        rest.append(word)
    if rest:
        yield ShownCommand(where, whole, tuple(rest), tuple(environment))
