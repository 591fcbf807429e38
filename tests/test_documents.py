"""Every command that a document or a help shows exists as it is written, and those that are quick are run."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer import _click as click  # Typer brings a copy of its own
from typer.testing import CliRunner

from kubehabit.main import app
from tests.documents import DOCUMENTS, ROOT, ShownCommand, is_placeholder, shown_commands

SHOWN = [command for path in DOCUMENTS for command in shown_commands(path)]
OURS = [command for command in SHOWN if command.program == "kubehabit" and not command.words[0].endswith("/")]
ROOT_COMMAND: Any = typer.main.get_command(app)


def problem_of(words: tuple[str, ...], *, whole: bool) -> str:
    """What is wrong with the words after `kubehabit`, by the real parser; nothing if all is right.

    Args:
        whole: nothing that is required may be missing.
    """
    command, rest, path = ROOT_COMMAND, list(words), ["kubehabit"]
    context = command.make_context("kubehabit", [], resilient_parsing=True)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if is_placeholder(rest[0]):
            return ""
        path.append(rest[0])
        if rest[0] not in command.commands:
            return f"there is no command {' '.join(path)}"
        command = command.commands[rest.pop(0)]
        context = command.make_context(path[-1], [], parent=context, resilient_parsing=True)
    if hasattr(command, "commands"):
        if not rest:
            return ""
        if "list" not in command.commands:
            return _of_leaf(command, context, rest, whole=whole)
        command = command.commands["list"]
        context = command.make_context("list", [], parent=context, resilient_parsing=True)
    return _of_leaf(command, context, rest, whole=whole)


def _of_leaf(command: Any, context: Any, rest: list[str], *, whole: bool) -> str:
    exact = not any(map(is_placeholder, rest))
    try:
        command.make_context(context.info_name, rest, parent=context.parent)
    except typer.Exit:  # --help
        return ""
    except click.exceptions.UsageError as error:
        message = str(error.format_message())
        lacks = isinstance(error, click.exceptions.MissingParameter | click.exceptions.BadOptionUsage)
        # A reader has the files, puts in values of their own, and knows that a mention is not all of a command.
        if "does not exist" in message or (lacks and not whole):
            return ""
        if isinstance(error, click.exceptions.BadParameter) and not lacks and not exact:
            return ""
        return message
    return ""


def test_the_documents_show_commands() -> None:
    assert len(OURS) > 100
    assert {command.where.partition(":")[0] for command in OURS} > {
        "README.md",
        "docs/quickstart.md",
        "docs/walkthrough.md",
    }


def test_each_command_of_the_documents_is_one_with_the_options_that_it_is_shown_with() -> None:
    problems = [
        f"{command}: {wrong}"
        for command in OURS
        if (wrong := problem_of(command.words[1:], whole=command.whole))
    ]
    assert problems == []


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    yield path, command
    for name, one in command.commands.items():
        yield from _leaves(one, (*path, name))


def test_each_command_of_the_helps_is_one_with_the_options_that_it_is_shown_with() -> None:
    problems, count = [], 0
    for path, command in _leaves(ROOT_COMMAND, ()):
        for quoted in re.findall(r"`kubehabit ([^`]+)`", command.help or ""):
            words = re.split(r"\s(?:>|\||&&)\s", quoted)[0]
            count += 1
            if wrong := problem_of(tuple(shlex.split(words)), whole=False):
                problems.append(f"kubehabit {' '.join(path)} --help: `kubehabit {quoted}`: {wrong}")
    assert problems == []
    assert count > 60


def test_no_help_of_an_option_names_a_module_of_the_code() -> None:
    shown = {
        f"{' '.join(path)} {param.name}: {param.help}"
        for path, command in _leaves(ROOT_COMMAND, ())
        for param in command.params
        if getattr(param, "help", None)
    }
    assert len(shown) > 100
    assert [text for text in shown if "opt." in text] == []


#: Options of other programs, and of benchmarks, that the documents name by themselves.
FOREIGN = {
    "--no-deps",
    "--password",
    "--env-manager",
    *("--minutes", "--skip", "--minimise", "--mutate", "--each", "--quick", "--soak", "--gigabytes"),
}


def test_each_option_that_a_document_names_by_itself_is_one_of_some_command() -> None:
    known = {"--help"}
    for path, command in _leaves(ROOT_COMMAND, ()):
        known.update(option for param in command.params for option in param.opts)
        if path[1:] == ("list",) or path == ("events",):  # filters are added when they are parsed
            shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}).output
            known.update(re.findall(r"--[a-z-]+", shown))
    named = {
        (document.name, option)
        for document in DOCUMENTS
        for option in re.findall(r"`(--[a-z][a-z-]+)[^`]*`", document.read_text())
        if not option.startswith(("--audit-", "--trainer"))
    }
    assert len(named) > 50
    assert sorted((name, option) for name, option in named if option not in known | FOREIGN) == []


def _anchors(document: Path) -> set[str]:
    """Where a link can lead to in a document, as GitHub names its headings."""
    headings = re.findall(r"^#+ (.+)$", _without_code(document.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def _without_code(text: str) -> str:
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_each_link_between_documents_leads_somewhere() -> None:
    broken, count = [], 0
    for document in [*DOCUMENTS, *sorted((ROOT / "docs" / "auditing").glob("*.md"))]:
        for link in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", _without_code(document.read_text()))
        ):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            place = (document.parent / path).resolve() if path else document
            count += 1
            if not place.exists() or (anchor and anchor not in _anchors(place)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert count > 250
    assert broken == []


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("alert list", "no command kubehabit alert"),
        ("alerts --severty high", "No such option"),
        ("alerts list --severity terrible", "terrible"),
        ("score README.md b.log", "unexpected extra argument"),
        ("train", "Missing"),
        ("incidents show", "Missing"),
    ],
)
def test_a_command_that_is_wrong_is_found(words: str, wrong: str) -> None:
    assert wrong in problem_of(tuple(words.split()), whole=True)


def test_each_make_target_and_module_of_the_documents_exists() -> None:
    targets = set(
        re.findall(r"^([a-z][a-z-]*)(?=[^:=]*:(?!=))", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    made = [(command, word) for command in SHOWN if command.program == "make" for word in command.words[1:2]]
    assert [
        str(command)
        for command, word in made
        if word not in targets and not word.startswith(("bench-", "-")) and not is_placeholder(word)
    ] == []
    modules = [
        (command, command.words[2])
        for command in SHOWN
        if command.program.startswith("python") and command.words[1:2] == ("-m",) and len(command.words) > 2
    ]
    assert len(modules) > 5
    assert [
        str(command)
        for command, module in modules
        if module.startswith(("benchmarks", "tests")) and find_spec(module) is None
    ] == []
    benches = {
        word.removeprefix("bench-")
        for _, word in made
        if word.startswith("bench-") and not is_placeholder(word[6:])
    }
    assert [
        name for name in benches if not (ROOT / "benchmarks" / f"bench_{name.replace('-', '_')}.py").exists()
    ] == []


#: Commands that take no time and need no service; all that the documents show of them, with nothing to fill in, are run.
QUICK = {
    ("token",): 0,
    ("bundle", "keygen"): 0,
    ("allow", "add"): 0,
    ("allow", "check"): 0,
    ("data", "inspect"): 0,
    ("rbac", "who-can"): 0,
    ("rbac", "path"): 0,
    ("rbac", "check"): 1,
    ("rbac", "report"): 0,
}


def _quick(command: ShownCommand) -> int | None:
    words = command.words[1:]
    return next((status for start, status in QUICK.items() if words[: len(start)] == start), None)


def test_what_is_quick_runs_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled_lines: list[bytes]
) -> None:
    """In the order of each document, in an empty folder with a log and the roles of a cluster, as a reader would."""
    ran = 0
    for document in DOCUMENTS:
        folder = tmp_path / document.relative_to(ROOT).as_posix().replace("/", "-")
        folder.mkdir()
        (folder / "audit.log.gz").write_bytes(gzip.compress(b"\n".join(labelled_lines[:300]) + b"\n"))
        rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        role = {
            "kind": "ClusterRole",
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": "all"},
        }
        (folder / "rbac.json").write_text(
            json.dumps({"kind": "List", "apiVersion": "v1", "items": [role | {"rules": rules}]})
        )
        monkeypatch.chdir(folder)
        monkeypatch.setenv("KUBEHABIT_HOME", str(folder / "home"))
        monkeypatch.delenv("KUBEHABIT_TOKEN", raising=False)
        for command in shown_commands(document):
            if command.program != "kubehabit" or not command.whole or not command.exact:
                continue
            status = _quick(command)
            if status is None:
                continue
            done = CliRunner().invoke(app, list(command.words[1:]))
            assert done.exit_code == status, f"{command}: {done.output}"
            ran += 1
    assert ran >= 12


def test_the_readme_says_where_the_command_is_before_it_uses_it() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index("    . .venv/bin/activate") < text.index("    kubehabit data build")
