"""The names of one person, found and replaced in texts of any kind: as they are, in JSON, and in URLs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from data.errors import KubehabitError
from data.principals.identity import identify
from data.visible_text import visible

#: A shorter name is part of too many words.
LEAST_CHARACTERS = 3
# What may not stand beside a name, or it is part of another one. An escape of JSON or of a URL ends before it.
_BEFORE = r"(?:(?<![A-Za-z0-9_@.-])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4})|(?<=%[0-9a-fA-F]{2}))"
_AFTER = r"(?![A-Za-z0-9_@-]|\.[A-Za-z0-9])"


class NoPersonError(KubehabitError):
    """A name that is not that of a person, or is too short to be looked for."""


class Person:
    """One person, by the names that a log, a store or a file may have of them.

    Args:
        principal: the name of the principal.
        usernames: as which the person was logged.

    Attributes:
        names: all of them, the principal's first.
        spellings: how they are written, in texts, in JSON and in URLs; the longest first.

    Raises:
        NoPersonError: the principal is a service account, a node or a component, or has fewer than three characters.
    """

    def __init__(self, principal: str, usernames: Iterable[str] = ()) -> None:
        if identify(principal, ()).kind != "human":
            raise NoPersonError(
                f"{visible(principal)!r} is no person, but an account of the cluster or one without an identity: it has no "
                "personal data of its own. Name a person as `kubehabit principals --kind human` lists them."
            )
        self.names = tuple(dict.fromkeys((principal, *usernames)))
        if min(map(len, self.names)) < LEAST_CHARACTERS:
            raise NoPersonError(
                f"{visible(principal)!r} has fewer than {LEAST_CHARACTERS} characters, which stand in too many other words."
            )
        found = {spelling for name in self.names for spelling in _spellings(name)}
        self.spellings = tuple(sorted(found, key=lambda text: (-len(text), text)))
        # Literals between two fixed assertions: matched in linear time.
        either = "|".join(map(re.escape, self.spellings))
        self._found = re.compile(f"{_BEFORE}(?:{either}){_AFTER}")

    @property
    def principal(self) -> str:
        """Name of the principal."""
        return self.names[0]

    def is_in(self, text: str) -> bool:
        """Whether a text names the person, as a whole word."""
        return self._found.search(text) is not None

    def replaced(self, text: str, pseudonym: str) -> str:
        """The text with a pseudonym, of ASCII letters, digits and dashes, in place of the person's names."""
        return self._found.sub(pseudonym, text)

    def replaced_in(self, value: Any, pseudonym: str) -> Any:
        """The same for a value of JSON or MessagePack: texts, JSON as bytes, and all that lists and mappings hold."""
        if isinstance(value, str):
            return self.replaced(value, pseudonym)
        if isinstance(value, bytes) and value.startswith(b"{"):
            text = value.decode("utf-8", "surrogateescape")
            return self.replaced(text, pseudonym).encode("utf-8", "surrogateescape")
        if isinstance(value, dict):
            return {
                self.replaced_in(key, pseudonym): self.replaced_in(held, pseudonym)
                for key, held in value.items()
            }
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.replaced_in(held, pseudonym) for held in value]
        return value


def _spellings(name: str) -> Iterable[str]:
    yield name
    yield visible(name)
    for as_ascii in (True, False):
        yield json.dumps(name, ensure_ascii=as_ascii)[1:-1]
    encoded = name.encode("utf-8", "surrogatepass")
    for safe in ("", "@", "@:", "/@:"):
        for text in (quote(encoded, safe=safe),):
            yield from (text, text.lower() if "%" in text else text)
