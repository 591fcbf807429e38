"""`kubehabit rules`: rules in CEL beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubehabit import options as opt

if TYPE_CHECKING:
    from detection.rules.rule import Rule
    from detection.rules.rule_files import RuleSet

app = opt.room(
    """
    Rules of your own beside the model: what they match, a CEL expression, a reason, and their tests, one YAML file each.

    All commands read files on this machine and change nothing but what --out names. docs/rules.md writes a rule from nothing.
    """
)
_Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FILE]...",
        help="Rule files or folders of them. Default: those that the service would use.",
        exists=True,
        show_default=False,
    ),
]


def _read(files: Sequence[Path] | None, config: Path | None) -> RuleSet:
    """Rules of files and folders; of the settings if none are named."""
    from detection.rules.rule_files import read_named, read_rules

    if files:
        return read_named(files)
    from serving.settings import read_settings

    rules = read_settings(config or opt.shipped("serve.yaml")).rules
    return read_rules(rules.folders).without(rules.disabled)


@app.command("list")
def list_rules(files: _Files = None, config: opt.ServeConfig = None, as_json: opt.AsJson = False) -> None:
    """List rules, and files that cannot be used with the reason. Exit status 1 says that there are such files.

    Example:  `kubehabit rules list`

    Next:  `kubehabit rules explain NAME`.
    """
    from kubehabit.tables.rules import list_object

    found = _read(files, config)
    opt.show(list_object(found), "rules.list_screen", as_json)
    raise typer.Exit(1 if found.broken else 0)


@app.command("explain")
def explain(
    name: Annotated[str, typer.Argument(help="Name of a rule that the service would use, or a rule's file.")],
    config: opt.ServeConfig = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show one rule: what it is about, when it hits, what it says, and what its tests show.

    Example:  `kubehabit rules explain service-external-ips`

    Next:  `kubehabit rules test --log LOG` for what it would have reported.
    """
    from detection.rules.rule import RuleFormError
    from detection.rules.rule_files import read_rule
    from kubehabit.tables.rules import rule_object

    rule: Rule | None
    if Path(name).is_file():
        try:
            rule = read_rule(Path(name))
        except RuleFormError as error:
            opt.fail(f"{name} cannot be used: {error}. Correct it there.")
            return
    else:
        rule = _read(None, config).rules.get(name)
    if rule is None:
        opt.fail(f"There is no rule {name!r}. See which there are: kubehabit rules list")
        return
    opt.show(rule_object(rule), "rules.rule_screen", as_json)


@app.command("test")
def run_rule_tests(
    files: _Files = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option(
            "--log",
            help="Audit log to run the rules over, in any format that docs/sources.md names; may be repeated, oldest first.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    config: opt.ServeConfig = None,
    as_json: opt.AsJson = False,
) -> None:
    """Run the tests that rules bring, and with --log say what the rules would have reported of a log.

    With a log, habits and the budget count as in the service, beginning with nothing. Exit status 1 says that a test failed or
    that a file cannot be used.

    Example:  `kubehabit rules test my-rule.yaml --log audit.log.gz`

    Next:  put the file into the folder "rules" in KUBEHABIT_HOME; a running service uses it two seconds later.
    """
    from detection.rules.rule_tests import run_tests
    from kubehabit.tables.rules import tests_object

    found = _read(files, config)
    results = [result for rule in found.rules.values() for result in run_tests(rule)]
    replayed = _replay(found, logs) if logs else None
    opt.show(tests_object(found, results, replayed), "rules.tests_screen", as_json)
    raise typer.Exit(1 if found.broken or not all(result.passed for result in results) else 0)


def _replay(found: RuleSet, logs: Sequence[Path]) -> Any:
    from detection.rules.replay import replay
    from kubehabit.logs import chunks

    return replay(list(found.rules.values()), chunks(logs))


@app.command("import-sigma")
def import_sigma(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Sigma rules.", exists=True)],
    out: Annotated[Path, opt.Out],
    as_json: opt.AsJson = False,
) -> None:
    """Turn Sigma rules for Kubernetes audit logs into rules, with a warning where one cannot match what API servers write.

    Needs `pip install 'kubehabit[sigma]'`. A file that exists is not overwritten. Exit status 1 says that a rule could not be
    turned; the others are written all the same.

    Example:  `kubehabit rules import-sigma sigma/rules/application/kubernetes/audit/*.yml --out rules`

    Next:  `kubehabit rules test rules --log audit.log.gz`, before the service uses them.
    """
    from detection.rules.sigma_import import convert_files
    from kubehabit.tables.rules import sigma_object

    found = convert_files(files, out)
    opt.show(sigma_object(found), "rules.sigma_screen", as_json)
    raise typer.Exit(0 if all(one.path is not None for one in found) else 1)
