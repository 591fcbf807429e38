"""Exceptions by hand: a file to keep in git, and what the service makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from detection.exceptions import HabitException
from kubehabit.main import app
from kubehabit.tables.exceptions import exceptions_table
from kubehabit.tables.screen import show
from serving.alerts.exceptions import append_exception, read_exceptions

ADD = ("allow", "add", "migration", "--principal", "alice@corp", "--verb", "list", "--resource", "secrets")
WHY = ("--reason", "CHG-1021: migration", "--by", "judy")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_an_exception_is_added_and_what_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "exceptions.yaml"
    code, text = run(*ADD, *WHY, "--expires", "2099-12-24", "--file", str(file))
    assert (code, "until 2099-12-24 23:59 UTC" in text) == (0, True)
    file.write_text(file.read_text() + "  # a remark\n")
    before = file.read_text()
    assert (
        run(
            "allow",
            "add",
            "other",
            "--group",
            "team-*",
            "--name",
            "web-*",
            *WHY,
            "--expires",
            "2099-01-01",
            "--file",
            str(file),
        )[0]
        == 0
    )
    assert file.read_text().startswith(before)
    first, second = read_exceptions(file).entries
    assert (first.principal, first.verbs, first.resources, first.by) == (
        "alice@corp",
        ("list",),
        ("secrets",),
        "judy",
    )
    assert (second.group, second.names, second.reason) == ("team-*", ("web-*",), "CHG-1021: migration")
    assert run("allow", "check", "--file", str(file)) == (0, f"{file}: 2 exceptions, 0 of them expired.\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*ADD, *WHY, "--expires", "2020-01-01"), "would have expired already"),
        ((*ADD, *WHY, "--expires", "tomorrow"), "is no day"),
        (
            ("allow", "add", "all", "--principal", "*", "--verb", "get", *WHY, "--expires", "2099-01-01"),
            "hide attacks",
        ),
    ],
)
def test_what_is_wrong_is_not_added(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    file = tmp_path / "exceptions.yaml"
    code, text = run(*arguments, "--file", str(file))
    assert (code, says in text) == (2, True)
    assert not file.exists()


def test_check_reports_what_has_expired_and_what_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "exceptions.yaml"
    file.write_text(
        "exceptions:\n"
        "- {name: old, reason: done, expires: 2020-01-01, principal: a, verbs: [get]}\n"
        "- {name: new, reason: running, expires: 2099-01-01T00:00:00Z, principal: a, verbs: [get]}\n"
    )
    code, text = run("allow", "check", "--file", str(file))
    assert (code, "old expired on 2020-01-01: done" in text, "new" in text) == (1, True, False)
    file.write_text("exceptions: []\nmore: 1\n")
    with pytest.raises(KubehabitError, match="unknown key 'more'"):
        read_exceptions(file)
    file.write_text("exceptions: []\n")
    append_exception(file, HabitException("x", "why", "2099-01-01", principal="a", verbs=("get",)))
    assert len(read_exceptions(file)) == 1


def test_the_list_shows_what_was_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    one = {
        "name": "migration",
        "principal": "alice@corp",
        "group": "",
        "verbs": ["list"],
        "resources": ["secrets"],
        "namespaces": [],
        "names": [],
        "reason": "CHG-1021",
        "by": "judy",
        "expires": "2026-12-24T23:59:59Z",
        "expired": True,
        "uses": 3,
        "lastUsed": "2026-11-24T14:00:00Z",
    }
    show(exceptions_table({"exceptions": [one]}))
    text = capsys.readouterr().out
    for part in (
        "migration",
        "alice@corp",
        "list secrets * *",
        "(expired)",
        "3",
        "2026-11-24 14:00:00",
        "CHG-1021 (judy)",
    ):
        assert part in text
    show(exceptions_table({"exceptions": []}))
    assert "No exceptions" in capsys.readouterr().out
