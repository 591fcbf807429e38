"""Parts of what commands print. Every text is made visible: none is markup, a control sequence or a line of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from data.visible_text import visible

Json = Mapping[str, Any]


class VisibleConsole(Console):
    """A console that reads no markup, and prints no control character of a text, whatever it is given."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, with the texts of all segments made visible; the newlines between lines stay."""
        for segment in super().render(renderable, options):
            text = "" if segment.control else segment.text
            yield segment._replace(text="\n".join(map(visible, text.split("\n")))) if text else segment


#: Narrower than that, a table with a sentence in a column is hard to read.
_NARROW = 110


class ItemList:
    """A list of items with one long text each, by the width there is.

    A framed table on a wide terminal; an item of two lines or more on a narrow one, its text below the rest; one line for an
    item in a pipe, its text last, for `grep`, `awk` and `less -S`.

    Args:
        heads: of the columns.
        rows: cells, row by row.
        text: place of the column with the long text.
        right: columns that are right-aligned in the table.
    """

    def __init__(
        self, *heads: str, rows: Iterable[Sequence[RenderableType]], text: int, right: Sequence[int] = ()
    ) -> None:
        self._heads = heads
        self._rows = [[*map(line, row)] for row in rows]
        self._text = text
        self._right = right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        """Render for a console."""
        if not console.is_terminal:
            for row in self._rows:
                cells = [*self._short(row), row[self._text]]
                one_line = Text("  ").join(cell for cell in cells if isinstance(cell, Text))
                one_line.no_wrap, one_line.overflow = True, "ignore"
                yield one_line
        elif options.max_width < _NARROW:
            for row in self._rows:
                yield Text("  ").join(self._short(row))
                yield Padding(row[self._text], (0, 0, 1, 2))
        else:
            table = Table(*self._heads, expand=True, show_lines=True)
            for place, column in enumerate(table.columns):
                column.no_wrap = place in (0, len(self._heads) - 1) and place != self._text
                column.justify = "right" if place in self._right else "left"
            for row in self._rows:
                table.add_row(*row)
            yield table

    def _short(self, row: Sequence[RenderableType]) -> list[Text]:
        """The cells beside the long text, without those that are empty."""
        cells = (cell for place, cell in enumerate(row) if place != self._text)
        return [cell for cell in cells if isinstance(cell, Text) and cell.plain]


def show(*parts: RenderableType) -> None:
    """Print to standard output. A pipe has no width, and a table cut at 80 columns is of no use in a file."""
    console = VisibleConsole(width=None if sys.stdout.isatty() else 200)
    for part in parts:
        console.print(line(part), soft_wrap=isinstance(part, str), crop=False)


def when(time: str | None, length: int = 19) -> str:
    """A time of the API (RFC 3339, UTC), to the second unless another length is given."""
    return (time or "")[:length].replace("T", " ")


def line(content: RenderableType, style: str = "") -> RenderableType:
    """A text as one line; any other content as it is."""
    return Text(visible(content), style=style) if isinstance(content, str) else content


def heading(text: str, style: str = "bold") -> Text:
    """Heading of a part of a page."""
    return Text(f"\n{visible(text)}", style=style)


def items(title: str, lines: Iterable[str]) -> list[RenderableType]:
    """A heading and a list below it; nothing without lines."""
    found = [line(f"- {one}") for one in lines]
    return [heading(title, "bold underline"), *found] if found else []


def new_table(
    *heads: str, rows: Iterable[Sequence[RenderableType]] = (), right: Sequence[int] = (), **options: Any
) -> Table:
    """A table of texts.

    Args:
        heads: of the columns.
        rows: cells, row by row.
        right: columns that are right-aligned.
        options: of `rich.table.Table`.
    """
    table = Table(**{"box": None, "pad_edge": False, "header_style": "bold", **options})
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="right" if place in right else "left")
    for row in rows:
        table.add_row(*map(line, row))
    return table


def with_more(content: RenderableType, cursor: object) -> RenderableType:
    """A page of a list, and how to see the next."""
    return content if cursor is None else Group(content, line(more(cursor), "dim"))


def more(cursor: object) -> str:
    """How to see the next page of a list."""
    return f"There are more: the same with --cursor {cursor}, or a larger --limit."


def number(count: int) -> str:
    """A count; nothing for 0."""
    return f"{count:,}" if count else ""


def few(values: Sequence[str], most: int = 3) -> str:
    """The first of some values and how many more there are."""
    rest = len(values) - most
    return ", ".join(values[:most]) + (f" and {rest} more" if rest > 0 else "")
