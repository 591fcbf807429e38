"""The command line: all rooms together, what goes wrong as one sentence, and the entry point."""

from __future__ import annotations

import errno
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kubehabit import (
    alerts,
    allow,
    backtest,
    backups,
    data,
    doctor,
    evidence,
    forensics,
    incidents,
    mcp,
    models,
    privacy,
    rbac,
    report,
    retrain,
    rules,
    serve,
    signing,
    sinks,
    tokens,
    train,
    who,
    worker,
)
from kubehabit.options import fail

#: Packages that only `pip install 'kubehabit[train]'` brings.
TRAINING_PACKAGES = frozenset(
    (
        *("datasets", "jsonargparse", "lightning", "matplotlib", "onnx", "onnxscript", "optuna"),
        *("pandas", "pyarrow", "scipy", "sklearn", "torch"),
    )
)
#: Packages that only `pip install 'kubehabit[mcp]'` brings.
ASSISTANT_PACKAGES = frozenset(("mcp", "mcp_types"))
#: What a file system answers when the account, the disk or the path is at fault.
REFUSED_BY_HOST = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR))
DISK_IS_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
#: Packages of kubehabit beside this one; their names are common ones.
ROOMS = ("configs", "data", "detection", "training", "serving")


class _PlainErrors(TyperGroup):
    """Turns what a person can act on into one sentence and an exit status, never a traceback.

    Its own help is plain text: Markdown on a terminal costs a third of a second that every look at the list of commands would
    wait for.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"rich_markup_mode": None})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List each command with the whole first paragraph of its help."""
        shown = [(name, self.commands[name].help or "") for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_.partition("\n\n")[0]) for name, help_ in shown])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            package = (missing.name or "").partition(".")[0]
            extra = "mcp" if package in ASSISTANT_PACKAGES else "train"
            if (
                extra == "train"
                and package not in TRAINING_PACKAGES
                and not (missing.name or "").startswith("mlflow.")
            ):
                raise
            fail(
                f"this command needs '{package}', which the serving install leaves out. "
                f"Install it with: pip install 'kubehabit[{extra}]'"
            )
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno in DISK_IS_FULL:
                fail(f"{error.strerror}: make room, and give the command again.")
            if error.errno not in REFUSED_BY_HOST or not error.filename:
                raise
            fail(
                f"Cannot use {error.filename}: {error.strerror}. Name another place, or change its permissions."
            )
        except Exception as error:
            from data.errors import KubehabitError

            if not isinstance(error, KubehabitError):
                raise
            fail(str(error), error.exit_code)


app = typer.Typer(
    cls=_PlainErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"kubehabit {version('kubehabit')}")
        raise typer.Exit


@app.callback()
def kubehabit(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Learns what each principal of a Kubernetes cluster normally does from its audit log, and flags what it normally does not.

    New here? `kubehabit demo` shows everything in a few minutes. With a log of your own, in this order:
    `data build`, `train`, `evaluate`, then `serve` (a live API) or `score` (one file).

    Commands that read what a service recorded ask the running service at `--url` (KUBEHABIT_URL, with the token in
    KUBEHABIT_TOKEN), or with `--local` read its files on this machine. `--json` prints JSON on standard output.

    Everything is kept in `.kubehabit` (KUBEHABIT_HOME); another MLflow server is used when MLFLOW_TRACKING_URI or
    MLFLOW_REGISTRY_URI names it.
    """
    del version  # its callback has printed it


@app.command()
def demo(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            help="Folder for everything the demo makes; emptied first. Default: .kubehabit/demo.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """See the whole story on a recording of a real cluster: learn its habits, serve the model, catch attacks.

    Builds a dataset from normal work, trains, registers, starts the API, plays a recording with labelled
    attacks through it over HTTP, and ends with what was caught and what was missed. Takes about 6 minutes on
    2 cores; Ctrl-C leaves nothing running.

    Example:  `kubehabit demo`

    Next:  the same with your own log, beginning with `kubehabit data build`.
    """
    from kubehabit.demo import run

    run(home)


app.add_typer(data.app, name="data")
app.add_typer(train.app)
app.add_typer(models.app)
app.add_typer(retrain.app)
app.add_typer(signing.app, name="bundle")
app.add_typer(serve.app)
app.add_typer(worker.app)
app.add_typer(doctor.app)
app.add_typer(sinks.app)
app.add_typer(backtest.app)
app.add_typer(backups.app)
app.add_typer(tokens.app, name="token")
app.add_typer(alerts.app, name="alerts")
app.add_typer(allow.app, name="allow")
app.add_typer(incidents.app, name="incidents")
app.add_typer(who.who_app, name="who")
app.add_typer(rbac.app, name="rbac")
app.add_typer(rules.app, name="rules")
app.add_typer(forensics.app)
app.add_typer(evidence.app)
app.add_typer(mcp.app)
app.add_typer(report.app, name="report")
app.add_typer(privacy.app, name="privacy")


def foreign_room() -> str | None:
    """A sentence if Python finds another package under the name of one of ours, else None."""
    ours = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        if not (ours / room / "__init__.py").is_file():
            continue
        found = find_spec(room)
        places = [] if found is None else [*(found.submodule_search_locations or ()), found.origin or ""]
        place = Path(places[0]).resolve() if places else None
        if place != ours / room:
            return (
                f"another package named '{room}' hides kubehabit's own: Python finds {place} before {ours / room}. Run "
                "kubehabit from another folder, take that package out of PYTHONPATH, or install kubehabit in an environment "
                "of its own."
            )
    return None


def main() -> None:
    """Entry point of the console script."""
    sentence = foreign_room()
    if sentence is not None:
        typer.echo(f"error: {sentence}", err=True)
        sys.exit(2)
    app(prog_name="kubehabit")
