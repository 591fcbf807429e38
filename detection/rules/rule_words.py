"""What a rule is about, in words: the same in the console and on the command line."""

from __future__ import annotations

import msgspec

from detection.rules.constraints import MatchConstraints


def constraint_words(constraints: MatchConstraints) -> list[tuple[str, str]]:
    """Each constraint that is given: its name and its values in words."""
    found = msgspec.to_builtins(constraints)
    return [(name, words_of(value)) for name, value in found.items() if value]


def words_of(value: object) -> str:
    """A value of a rule in words: lists with commas, rules of lists with semicolons."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "; ".join(
            " ".join(f"{name} {words_of(part)}" for name, part in one.items() if part) for one in value
        )
    if isinstance(value, list | tuple):
        return ", ".join(f'"{one}"' if one == "" else str(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
