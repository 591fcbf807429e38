"""Options from a pydantic model: one for each field, with its description, choices, bounds and short names."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from kubehabit import filters
from kubehabit.filters import query_command


class SampleQuery(BaseModel):
    """A query of every kind of field."""

    principal: Annotated[str, Field(description="Who acted; empty: any")] = ""
    user_agent: Annotated[str | None, Field(alias="userAgent", description="Start of the user agent")] = None
    verb: Annotated[list[str], Field(description="May be repeated")] = []
    state: Annotated[Literal["", "open", "closed"], Field(description="State")] = ""
    since: Annotated[datetime | None, Field(description="Start")] = None
    limit: Annotated[int, Field(ge=1, le=10, description="Most")] = 5
    note: Annotated[str | None, Field(description="Note", max_length=3)] = None


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Any:
    # A test's module cannot be imported by its name.
    monkeypatch.setattr(filters, "import_module", lambda _: SimpleNamespace(SampleQuery=SampleQuery))
    app, seen = typer.Typer(), []

    @app.command(cls=query_command("sample:SampleQuery", tuple(SampleQuery.model_fields)))
    def command(ctx: typer.Context) -> None:
        seen.append(ctx.obj)

    def run(*words: str, status: int = 0) -> Any:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == status, done.output
        return seen[-1] if seen and not status else done.output

    return run


def test_each_field_is_an_option(ask: Any) -> None:
    assert ask() == SampleQuery()
    found = ask(
        "-p", "alice", "--user-agent", "kubectl", "--verb", "get", "--verb", "list", "--state", "open"
    )
    assert (found.principal, found.user_agent, found.verb, found.state) == (
        "alice",
        "kubectl",
        ["get", "list"],
        "open",
    )
    assert ask("--since", "2026-11-24").since == datetime(2026, 11, 24, tzinfo=UTC)
    assert ask("--limit", "10").limit == 10


def test_what_a_field_does_not_take_names_the_option(ask: Any) -> None:
    for option, value in (("--state", "ajar"), ("--limit", "11"), ("--note", "long")):
        assert option in ask(option, value, status=2)
