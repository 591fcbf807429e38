"""The command line of kubehabit, and nothing else: each command imports the room it needs when it runs."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

# Packages that only `pip install 'kubehabit[train]'` brings.
TRAINING_PACKAGES = frozenset(
    {
        "datasets",
        "httpx",
        "jsonargparse",
        "lightning",
        "matplotlib",
        "onnx",
        "onnxscript",
        "optuna",
        "pandas",
        "pyarrow",
        "scipy",
        "sklearn",
        "torch",
    }
)
CHAMPION = "models:/kubehabit@champion"


class _PlainErrors(TyperGroup):
    """Turns what a person can act on into one sentence and an exit status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            package = (missing.name or "").partition(".")[0]
            if package not in TRAINING_PACKAGES and not (missing.name or "").startswith("mlflow."):
                raise
            _fail(
                f"this command needs '{package}', which the serving install leaves out. "
                "Install the training packages with: pip install 'kubehabit[train]'",
                2,
            )
        except SystemExit as stopped:
            # Lightning answers Ctrl-C with exit status 1; a shell expects 130.
            if isinstance(stopped.__context__, KeyboardInterrupt):
                raise typer.Exit(130) from stopped
            raise
        except Exception as error:
            from data.errors import KubehabitError

            if not isinstance(error, KubehabitError):
                raise
            _fail(str(error), error.exit_code)


def _fail(sentence: str, status: int) -> None:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(status)


def _shipped(name: str) -> Path:
    """Path of a configuration file that is installed with kubehabit."""
    return Path(str(files("configs") / name))


app = typer.Typer(
    cls=_PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Learns the habits of every principal in a Kubernetes cluster from its audit log, and says when a
    credential starts doing what its owner never does.

    New here? `kubehabit demo` shows everything in a few minutes. With a log of your own, in this
    order: `data build`, `train`, `evaluate`, then `serve` (a
    live API) or `score` (one file).

    Everything is kept in `.kubehabit` (KUBEHABIT_HOME); an MLflow server of yours is used when
    MLFLOW_TRACKING_URI or MLFLOW_REGISTRY_URI names it.
    """,
)
data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Turn audit logs into the dataset that training reads.",
)
app.add_typer(data_app, name="data")
token_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make, list and revoke the tokens with which callers of `kubehabit serve` prove themselves.",
)
app.add_typer(token_app, name="token")
who_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
    Ask who did something, from every event that was received. No alert is needed.

    `kubehabit who touched secret payments/db --since 7d`

    `kubehabit who is new in payments --since 7d`
    """,
)
app.add_typer(who_app, name="who")
who_is_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Ask who is new somewhere.")
who_app.add_typer(who_is_app, name="is")
who_is_new_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Ask who is new in a namespace."
)
who_is_app.add_typer(who_is_new_app, name="new")


class _ListsByDefault(TyperGroup):
    """A group whose `list` runs when no command is named, with its options if any are given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


alerts_app = typer.Typer(
    cls=_ListsByDefault,
    rich_markup_mode="markdown",
    help="""
    Read the alerts of a running service, or of the store on this machine. Without a command: list them.

    `kubehabit alerts --severity high --state open --verdict none`

    `kubehabit alerts list --help` explains every filter.
    """,
)
app.add_typer(alerts_app, name="alerts")
incidents_app = typer.Typer(
    cls=_ListsByDefault,
    rich_markup_mode="markdown",
    help="""
    Read and decide the incidents of a running service; read those of the store on this machine. Without a command: list them.

    `kubehabit incidents --state open`
    """,
)
app.add_typer(incidents_app, name="incidents")

AnyLog = Annotated[
    Path,
    typer.Argument(
        help="Audit log: one JSON event a line, plain, .gz or .zst.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]


@data_app.command("build")
def data_build(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...",
            help="Audit logs of normal work, oldest first: one JSON event a line, plain, .gz or .zst.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write the dataset to.", show_default=False)],
    dead_letters: Annotated[
        Path | None,
        typer.Option("--dead-letters", help="Where to keep lines that are no audit event, with the reason."),
    ] = None,
) -> None:
    """Build a dataset: read audit logs, turn events into actions, and actions into each principal's sequence.

    The vocabulary is fitted here, on these logs only, so give it normal work. Lines that are no audit event
    are counted and skipped.

    Example:  `kubehabit data build audit.log.gz --out .kubehabit/dataset`

    Next:  `kubehabit train --data .kubehabit/dataset`
    """
    from data.build import build

    summary = build(logs, out, dead_letters=dead_letters)
    typer.echo(summary.describe())
    typer.echo(f"Next: kubehabit train --data {out}")


@data_app.command("inspect")
def data_inspect(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...",
            help="Audit logs of any format that docs/sources.md names: files, folders, or - for standard input.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for another program.")] = False,
) -> None:
    """Show what is in an audit log, and what its audit policy leaves out that detection needs. Changes nothing.

    Example:  `kubehabit data inspect /var/log/kubernetes/audit/`

    Next:  `kubehabit data build`, or a better audit policy first.
    """
    from rich.console import Console

    from data.inspect import inspect

    found = inspect(logs, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        Console().print(found.screen())


@data_app.command("profile")
def data_profile(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...",
            help="Audit logs, oldest first: files or folders of any format that `data build` reads.",
            exists=True,
            allow_dash=True,
            show_default=False,
        ),
    ],
    principal: Annotated[
        str,
        typer.Option("--principal", "-p", help="Whose habits: a user name as logged.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write a page with plots to this HTML file.", dir_okay=False),
    ] = None,
) -> None:
    """Show the habits of one principal: when it acts, what it does, from where, and what is rare for it.

    Example:  `kubehabit data profile audit.log.gz --principal alice@example.com --out alice.html`

    Next:  `kubehabit data build`, to learn the habits of everybody.
    """
    from data.profile import gather
    from data.profile_page import render

    profile = gather(logs, principal)
    typer.echo(profile.describe())
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render(profile, [log.name for log in logs]), encoding="utf-8")
        typer.echo(f"Page: {out}")


@data_app.command("follow")
def data_follow(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG",
            help="The log that the API server is writing; need not exist yet.",
            show_default=False,
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="Address of a running `kubehabit serve`.")] = (
        "http://127.0.0.1:8646"
    ),
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            help="File that remembers how far the log is read. Default: .kubehabit/follow-LOG.json",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Follow a log on a control-plane node and send each event to a running service, until stopped.

    Goes on after a restart where it was; rotation, restarts and outages lose no event, and the service knows an event that it
    has had. The service's token is read from KUBEHABIT_TOKEN.

    Example:  `kubehabit data follow /var/log/kubernetes/audit/audit.log --to http://127.0.0.1:8646`
    """
    import os
    import signal
    import threading

    from data.ship import Shipper

    shipper = Shipper(
        log,
        to,
        state or Path(".kubehabit") / f"follow-{log.name}.json",
        token=os.environ.get("KUBEHABIT_TOKEN", ""),
        say=lambda sentence: typer.echo(sentence, err=True),
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    typer.echo(f"Following {log}; stop with Ctrl-C.", err=True)
    shipper.run(stop)
    typer.echo(", ".join(f"{count:,} {name}" for name, count in shipper.counts.items()), err=True)


@data_app.command("simulate")
def data_simulate(
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write to.", file_okay=False, show_default=False)
    ],
    principals: Annotated[
        int, typer.Option("--principals", help="About how many principals act.", min=10, max=1_000_000)
    ] = 100,
    days: Annotated[float, typer.Option("--days", help="Simulated days, all in all.", min=0.001)] = 7,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.", min=0)] = 1,
    attacks: Annotated[
        str, typer.Option("--attacks", help="all, none, or scenario names with commas between.")
    ] = "all",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings, as YAML, on top of the shipped simulate.yaml.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="A profile of the settings: default, or recording.")
    ] = "default",
) -> None:
    """Simulate a cluster: the audit log of weeks that never were, with attacks and labels.

    Writes normal.jsonl.zst (normal work), labelled.jsonl.zst (with attacks and look-alikes) and labels.json.

    Example:  `kubehabit data simulate --out .kubehabit/twin --principals 500 --days 28 --seed 7`

    Next:  `kubehabit data build .kubehabit/twin/normal.jsonl.zst --out .kubehabit/dataset`
    """
    from data.simulation import load_settings, simulate

    summary = simulate(
        out, principals, days, seed, attacks=attacks, settings=load_settings(config, profile), progress=True
    )
    typer.echo(summary.describe())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    ctx: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Dataset made by `kubehabit data build`.",
            exists=True,
            show_default=False,
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="The experiment, as YAML. Default: the shipped train.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    feedback: Annotated[
        Path | None,
        typer.Option(
            "--feedback",
            help="What people said about alerts, one JSON object a line: confirmed normal work is learned, attacks are left out.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    feedback_log: Annotated[
        list[Path] | None,
        typer.Option(
            "--feedback-log",
            help="Log that holds the events of the feedback; may be repeated.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            "--warm-start",
            help="Begin with the weights of a registered model, such as models:/kubehabit@champion.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            help="Go on with a training that was stopped: its MLflow run, or `last`. Its own config is used.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train the autoencoder, calibrate it on held-back normal data, export it to ONNX and register it.

    Ends with an MLflow run (parameters, curves, plots) and a new version of the registered model "kubehabit".
    Any further option goes to Lightning's own command line and overrides the YAML.
    The first version becomes the champion; later ones are challengers until `kubehabit promote` lets them through.

    Example:  `kubehabit train --data .kubehabit/dataset --trainer.max_steps 500`

    Next:  `kubehabit evaluate` against a labelled recording, or `kubehabit serve`.
    """
    from training.train import train as run_training

    options = list(ctx.args)
    if feedback is not None:
        logs = json.dumps([str(path) for path in feedback_log or []])
        options += [f"--data.feedback={feedback}", f"--data.feedback_logs={logs}"]
    result = run_training(
        config or _shipped("train.yaml"), data, options, resume=resume, warm_start=warm_start
    )
    for name, value in sorted(result.metrics.items()):
        typer.echo(f"  {name:<40} {value:.6g}")
    typer.echo(f"MLflow run: {result.run_id}")
    typer.echo(f"Registered: {result.model_name} version {result.version} ({result.alias})")
    if result.alias == "challenger":
        typer.echo("Next: kubehabit promote --log LOG --labels LABELS.json --normal LOG")
    else:
        typer.echo("Next: kubehabit serve, or kubehabit evaluate --log LOG --labels LABELS.json")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tune(
    ctx: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="Dataset made by `kubehabit data build`.", exists=True, show_default=False
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="The experiment that is varied. Default: the shipped train.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            "--search",
            help="What is searched, as YAML. Default: the shipped tune.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    study: Annotated[
        str, typer.Option("--study", help="Name of the search; the same name goes on with it.")
    ] = "kubehabit",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", help="Where trials are kept. Default: tune.db in KUBEHABIT_HOME.", show_default=False
        ),
    ] = None,
) -> None:
    """Search for better settings on held-back normal data; no labels are used. Can be stopped and gone on with.

    A trial is judged by how well it tells held-back windows from the same windows with another principal's action,
    and by its reconstruction. Further options go to every trial's training.

    Example:  `kubehabit tune --data .kubehabit/dataset`

    Next:  put what it prints into a copy of train.yaml, and `kubehabit train --config` it.
    """
    from rich.console import Console

    from training import tune as searching

    found = searching.tune(
        config or _shipped("train.yaml"),
        data,
        searching.TuneConfig.load(search),
        study=study,
        storage=storage,
        overrides=list(ctx.args),
    )
    Console().print(searching.table_of(found))
    typer.echo("Best settings, for a copy of train.yaml:")
    typer.echo(searching.as_config(found.best_params))


@app.command()
def evaluate(
    log: Annotated[
        Path,
        typer.Option("--log", help="Audit log to judge on.", exists=True, dir_okay=False, show_default=False),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="What was done in it (see docs). Without labels every incident counts as false.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Version in the MLflow registry.")] = CHAMPION,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write every figure to this file.", dir_okay=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Dataset the model was trained on: fits every baseline on it, to compare with. Takes some minutes more.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also write a Markdown report to this file.", dir_okay=False),
    ] = None,
) -> None:
    """Judge a registered model on a labelled log: attacks caught, false incidents, look-alikes raised.

    The thresholds are those in the model bundle, set on normal data before; nothing is fitted to the labels.

    Example:  `kubehabit evaluate --log dev.jsonl.gz --labels labels.json --json out.json`

    Next:  `kubehabit serve`, if the figures are good enough to be woken up by.
    """
    from training.evaluation.evaluate import evaluate as judge_model

    figures = judge_model(model, log, labels, data=data, report=report)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    _print_figures(figures)
    if json_path is not None:
        typer.echo(f"All figures: {json_path}")
    if report is not None:
        typer.echo(f"Report: {report}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ablate(
    ctx: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Dataset made by `kubehabit data build`. Default: one built from the shipped recording of normal work.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            help="Labelled audit log to judge on. Default: the shipped one.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="What was done in it. Default: that of the shipped log.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Run this variant only, beside the shipped one; may be repeated."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Training steps of each. Default: those of the config.", min=1),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="The experiment that is varied. Default: the shipped train.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(
            "--variants",
            help="What is varied, as YAML. Default: the shipped ablate.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Markdown file for the table. Default: ablations.md in KUBEHABIT_HOME.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Take the detector apart: leave out or change one choice at a time, and see what each is worth.

    Some variants are trained anew (a good minute each on two idle cores), others only judged in another way. Each is a run of
    the MLflow experiment `kubehabit-ablation`. Can be stopped and gone on with: what is done is not done again.
    Further options go to every training.

    Example:  `kubehabit ablate --only "no conditioning" --only "novelty alone"`

    Next:  read the table, then change your copy of train.yaml and `kubehabit train --config` it.
    """
    from data.paths import home
    from training.ablation import ablate as taking_apart
    from training.ablation.variants import AblateConfig

    where = taking_apart.Where.of(data, log, labels)
    table = out or home() / "ablations.md"
    run_id = taking_apart.ablate(
        where,
        config=config or _shipped("train.yaml"),
        variants=AblateConfig.load(variants or _shipped("ablate.yaml")),
        only=only or [],
        options=[*([f"--trainer.max_steps={steps}"] if steps else []), *ctx.args],
        out=table,
    )
    typer.echo(f"Table: {table}; with its plot in MLflow run {run_id}.")


@app.command()
def promote(
    log: Annotated[
        list[Path] | None,
        typer.Option(
            "--log",
            help="Labelled audit log; may be repeated.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels", help="Its labels, in the same order.", exists=True, dir_okay=False, show_default=False
        ),
    ] = None,
    normal: Annotated[
        list[Path] | None,
        typer.Option(
            "--normal",
            help="Log of recent normal work; may be repeated.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Registered model.")] = "kubehabit",
    version: Annotated[
        str | None,
        typer.Option(
            "--version", help="Challenger: a version or an alias. Default: challenger.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Margins, as YAML. Default: the shipped promote.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare and decide, but change nothing.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the former champion champion again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for another program.")] = False,
) -> None:
    """Let a challenger become champion, if it is no worse on the same recordings and on recent normal work.

    Exit status 1 says that it was refused. The decision and its numbers are kept in MLflow either way.

    Example:  `kubehabit promote --log dev.jsonl.gz --labels labels.json --normal today.jsonl.gz`

    Next:  `kubehabit serve` follows the champion by itself. To undo it: `kubehabit promote --rollback`.
    """
    from rich.console import Console

    from training.lifecycle import promotion as gate

    if rollback:
        now, before = gate.roll_back(name)
        typer.echo(f"Version {now} of {name} is the champion again; version {before} is the former one now.")
        return
    if len(log or []) != len(labels or []):
        _fail(
            "every --log needs its --labels, in the same order. Logs without labels are given with --normal.",
            2,
        )
    decision = gate.promote(
        name,
        list(zip(log or [], labels or [], strict=True)),
        normal or [],
        gate.GateConfig.load(config),
        challenger=version,
        dry_run=dry_run,
    )
    if as_json:
        typer.echo(json.dumps(decision.to_dict(), indent=1))
    else:
        Console().print(decision.table())
        typer.echo(decision.sentence())
    raise typer.Exit(0 if decision.promoted else 1)


@app.command()
def drift(
    log: AnyLog,
    model: Annotated[str, typer.Option("--model", help="Version in the MLflow registry.")] = CHAMPION,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Thresholds, as YAML. Default: the shipped drift.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for another program.")] = False,
) -> None:
    """Say whether the cluster still does what the model was calibrated on, and whether to train again.

    Compares a recent log: unknown values, each principal's surprise, new and vanished principals, incidents
    against the budget. The report and its plot are kept in the model's MLflow run.

    Example:  `kubehabit drift today.jsonl.gz`

    Next:  `kubehabit data build` and `kubehabit train --warm-start models:/kubehabit@champion`, if it says so.
    """
    from rich.console import Console

    from training.lifecycle.drift import DriftConfig
    from training.lifecycle.drift import drift as compare

    report = compare(log, model, DriftConfig.load(config), progress=not as_json)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        Console().print(report.screen())


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings, as YAML. Default: the shipped serve.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on.", min=1, max=65535, show_default=False)
    ] = None,
) -> None:
    """Serve the champion: score audit events as they arrive, keep alerts, answer at /v1, /docs and /metrics.

    A log pipeline posts events to /v1/score; a kube-apiserver posts its audit webhook to /v1/audit.

    Example:  `kubehabit serve --config configs/serve.yaml --port 8646`

    Next:  open /docs in a browser, and look at /v1/alerts once events have come in.
    """
    from serving.process import configure_allocator
    from serving.registry import ask_ahead

    configure_allocator()
    ask_ahead()
    from serving.server import serve as run_server

    run_server(config or _shipped("serve.yaml"), host, port)


TokensFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="The tokens file. Default: access.tokens of the settings, or tokens.json in KUBEHABIT_HOME.",
        dir_okay=False,
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings of the service, as YAML. Default: the shipped serve.yaml.",
        show_default=False,
    ),
]


def _tokens_file(file: Path | None, config: Path | None) -> Path:
    from serving.settings import read_settings

    return file or read_settings(config or _shipped("serve.yaml")).access.tokens_path


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="What the log of access will call it.", show_default=False)],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            help="What it may do: ingest (send events), read (alerts, principals, model, metrics) or admin (feedback and what "
            "else changes something). Give it again for more than one.",
            show_default=False,
        ),
    ],
    days: Annotated[
        float | None,
        typer.Option("--days", help="It expires after so many days.", min=0.0001, show_default="never"),
    ] = None,
    requests_per_second: Annotated[
        float | None,
        typer.Option(
            "--requests-per-second", help="A rate of its own.", min=0.001, show_default="the settings'"
        ),
    ] = None,
    megabytes_per_second: Annotated[
        float | None,
        typer.Option(
            "--megabytes-per-second",
            help="The same, for bodies as sent.",
            min=0.001,
            show_default="the settings'",
        ),
    ] = None,
    given: Annotated[
        typer.FileText | None,
        typer.Option(
            "--from",
            help="Take a token made elsewhere (32 random characters or more) from this file, - for standard input.",
            show_default=False,
        ),
    ] = None,
    file: TokensFile = None,
    config: Config = None,
) -> None:
    """Make a token and print it, this once: only its hash is kept. A running service knows it a second later.

    Example:  `kubehabit token create pipeline --scope ingest --days 90 > pipeline.token`
    """
    from datetime import UTC, datetime

    from serving import tokens

    path = _tokens_file(file, config)
    made, secret = tokens.create(
        path,
        name,
        tokens.scopes_of(scopes),
        now=datetime.now(UTC),
        days=days,
        requests_per_second=requests_per_second,
        megabytes_per_second=megabytes_per_second,
        given=given.read().strip() if given is not None else None,
    )
    until = f"until {made.expires:%Y-%m-%d %H:%M} UTC" if made.expires is not None else "until it is revoked"
    typer.echo(
        f"{path}: token {made.name} for {', '.join(made.scopes)}, {until}. It is shown only now:", err=True
    )
    typer.echo(secret)


@token_app.command("list")
def token_list(file: TokensFile = None, config: Config = None) -> None:
    """List the tokens: names, scopes and times; the tokens themselves are not kept."""
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.table import Table

    from serving.tokens import read_tokens

    path = _tokens_file(file, config)
    table = Table("name", "scopes", "created", "expires", "rate")
    now = datetime.now(UTC)
    for token in read_tokens(path):
        expires = "never" if token.expires is None else f"{token.expires:%Y-%m-%d %H:%M}"
        rates = (("requests/s", token.requests_per_second), ("MiB/s", token.megabytes_per_second))
        table.add_row(
            token.name,
            ", ".join(token.scopes),
            f"{token.created:%Y-%m-%d %H:%M}",
            expires + (" (expired)" if token.expired(now) else ""),
            ", ".join(f"{rate:g} {unit}" for unit, rate in rates if rate is not None),
        )
    Console().print(table)


@token_app.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(help="As `kubehabit token list` shows it.", show_default=False)],
    file: TokensFile = None,
    config: Config = None,
) -> None:
    """Take a token back. A running service refuses it a second later.

    Example:  `kubehabit token revoke pipeline`
    """
    from serving.tokens import revoke

    path = _tokens_file(file, config)
    revoke(path, name)
    typer.echo(f"{path}: token {name} is revoked.")


@app.command()
def score(
    log: AnyLog,
    model: Annotated[str, typer.Option("--model", help="Version in the MLflow registry.")] = CHAMPION,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of text, for another program.")
    ] = False,
) -> None:
    """Score one log file from beginning to end and print its alerts. Nothing is stored, no server is needed.

    Example:  `kubehabit score audit.log.gz`

    Next:  `kubehabit serve`, to have the same answers while things happen.
    """
    from serving.score import score_log

    raise typer.Exit(score_log(log, model, as_json))


ServiceURL = Annotated[
    str, typer.Option("--url", envvar="KUBEHABIT_URL", help="Address of a running `kubehabit serve`.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="JSON as the API answers, for another program.")]
LOCAL = "http://127.0.0.1:8646"
Note = Annotated[str, typer.Option("--note", help="Why; kept in the incident's trail.")]
By = Annotated[
    str, typer.Option("--by", envvar="USER", help="Who decides, in your own words; kept in the trail.")
]
IncidentID = Annotated[str, typer.Argument(metavar="ID", help="Of the incident.", show_default=False)]


def _service(url: str) -> Any:
    """The service, with the token of KUBEHABIT_TOKEN."""
    import os

    from serving.remote import Remote

    return Remote(url, os.environ.get("KUBEHABIT_TOKEN", ""))


def _asked(url: str | None, store: Path | None) -> Any:
    """The service to ask, or None for the files on this machine: who names a folder means that."""
    return _service(url) if url is not None and store is None else None


def _tell(answer: Any, screen: str, as_json: bool) -> None:
    """Print an answer: as it came, or by a function of `serving.screens`."""
    if as_json:
        typer.echo(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    from serving import screens

    screens.show(getattr(screens, screen)(answer))


Local = Annotated[
    bool,
    typer.Option(
        "--local",
        help="Read the store of alerts on this machine, also while no service runs, instead of asking one.",
    ),
]
LocalConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings of the service whose store that is; implies --local. Default: the shipped serve.yaml.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]
Cursor = Annotated[
    int | None,
    typer.Option("--cursor", help="Go on where the last answer ended.", min=0, show_default=False),
]


def _here(local: bool, config: Path | None) -> Any:
    """The store on this machine if that is meant, or None for a running service."""
    if not local and config is None:
        return None
    from serving.local import Local as Store

    return Store(config)


@alerts_app.command("list")
def alerts_list(
    severity: Annotated[
        Literal["low", "medium", "high", "critical"] | None,
        typer.Option("--severity", help="This severity and graver.", show_default=False),
    ] = None,
    principal: Annotated[
        str,
        typer.Option(
            "--principal",
            "-p",
            help="Only those of this principal, by its whole name; a service account is system:serviceaccount:NAMESPACE:NAME.",
            show_default=False,
        ),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option("--namespace", "-n", help="Only those that touched this namespace.", show_default=False),
    ] = "",
    state: Annotated[
        Literal["open", "closed"] | None,
        typer.Option(
            "--state",
            help="Only those whose incident is open, or closed (`kubehabit incidents close` closes one).",
            show_default=False,
        ),
    ] = None,
    verdict: Annotated[
        Literal["none", "normal", "malicious"] | None,
        typer.Option(
            "--verdict",
            help="By what people last said of them in feedback; none: nothing yet, so somebody has to look.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str,
        typer.Option(
            "--text",
            help="Only those with this in their sentence, principal, namespaces or ID, in capitals or not: 'listed Secrets'.",
            show_default=False,
        ),
    ] = "",
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Only those still going on then: 30m, 12h, 7d, 14:02 (UTC), 2026-11-24, or an RFC 3339 time.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Most to list, newest first.", min=1, max=500)] = 50,
    cursor: Cursor = None,
    url: ServiceURL = LOCAL,
    local: Local = False,
    config: LocalConfig = None,
    as_json: AsJSON = False,
) -> None:
    """List alerts, newest first: those that every filter given holds for, as the console's list has them.

    Example:  `kubehabit alerts list --severity high --namespace payments --verdict none --since 7d`

    Next:  `kubehabit alerts show ID`, or `kubehabit incidents` for what belongs together.
    """
    from datetime import datetime

    from serving.forensics.clock import written
    from serving.forensics.queries import moment_of

    moment = None if since is None else written(moment_of(since))
    principal, namespace, text = principal.strip(), namespace.strip(), text.strip()
    store = _here(local, config)
    if store is None:
        answer = _service(url).get(
            "alerts",
            severity=severity,
            principal=principal or None,
            namespace=namespace or None,
            state=state,
            verdict=verdict,
            q=text or None,
            since=moment,
            limit=limit,
            cursor=cursor,
        )
    else:
        from serving.query import AlertQuery

        answer = store.alerts(
            AlertQuery.model_validate(
                {
                    "severity": severity or "",
                    "principal": principal,
                    "namespace": namespace,
                    "state": state or "",
                    "verdict": verdict or "",
                    "text": text,
                }
            ),
            since=None if moment is None else datetime.fromisoformat(moment),
            limit=limit,
            cursor=cursor,
        )
    _tell(answer, "alerts_table", as_json)


@alerts_app.command("show")
def alerts_show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="Of the alert.", show_default=False)],
    url: ServiceURL = LOCAL,
    local: Local = False,
    config: LocalConfig = None,
    as_json: AsJSON = False,
) -> None:
    """Show one alert: what added up, what was expected instead, and what to do.

    Example:  `kubehabit alerts show 7d0c6a1f52b8e934`

    Next:  `kubehabit incidents show ID`, for what belongs together.
    """
    store = _here(local, config)
    answer = _service(url).get("alerts", alert_id) if store is None else store.alert(alert_id)
    _tell(answer, "alert_page", as_json)


@incidents_app.command("list")
def incidents_list(
    state: Annotated[
        Literal["open", "closed", "merged"] | None,
        typer.Option("--state", help="Only those in this state.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Most to list, newest first.", min=1, max=200)] = 50,
    cursor: Cursor = None,
    url: ServiceURL = LOCAL,
    local: Local = False,
    config: LocalConfig = None,
    as_json: AsJSON = False,
) -> None:
    """List incidents, newest first.

    Example:  `kubehabit incidents list --state open`

    Next:  `kubehabit incidents show ID`.
    """
    store = _here(local, config)
    given: dict[str, Any] = {"state": state, "limit": limit, "cursor": cursor}
    answer = _service(url).get("incidents", **given) if store is None else store.incidents(**given)
    _tell(answer, "incidents_table", as_json)


@incidents_app.command("show")
def incidents_show(
    incident_id: IncidentID,
    url: ServiceURL = LOCAL,
    local: Local = False,
    config: LocalConfig = None,
    as_json: AsJSON = False,
) -> None:
    """Show one incident: where it began, how it spread, what followed, what to do.

    Example:  `kubehabit incidents show 7d0c6a1f52b8e934`

    Next:  `kubehabit evidence --incident ID`, to keep it with proof; `kubehabit incidents close ID`, once it is dealt with.
    """
    store = _here(local, config)
    answer = _service(url).get("incidents", incident_id) if store is None else store.incident(incident_id)
    _tell(answer, "incident_page", as_json)


@incidents_app.command("merge")
def incidents_merge(
    incident_id: IncidentID,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="The incident that is taken in.", show_default=False)
    ],
    note: Note = "",
    by: By = "",
    url: ServiceURL = LOCAL,
    as_json: AsJSON = False,
) -> None:
    """Take another incident into one. Nothing is deleted, and the trail says who did it and why.

    Example:  `kubehabit incidents merge 7d0c6a1f52b8e934 9f2c11d04ab7e621 --note "Same laptop."`
    """
    body = {"incident": other, "note": note, "by": by}
    _tell(_service(url).post("incidents", incident_id, "merge", body=body), "incident_page", as_json)


@incidents_app.command("split")
def incidents_split(
    incident_id: IncidentID,
    alert: Annotated[
        list[str], typer.Option("--alert", help="An alert that leaves; may be repeated.", show_default=False)
    ],
    note: Note = "",
    by: By = "",
    url: ServiceURL = LOCAL,
    as_json: AsJSON = False,
) -> None:
    """Make an incident of its own of some alerts; it is shown. No later join brings the two together again.

    Example:  `kubehabit incidents split 7d0c6a1f52b8e934 --alert 9f2c11d04ab7e621 --note "Planned migration."`
    """
    body = {"alerts": alert, "note": note, "by": by}
    _tell(_service(url).post("incidents", incident_id, "split", body=body), "incident_page", as_json)


@incidents_app.command("close")
def incidents_close(
    incident_id: IncidentID,
    outcome: Annotated[
        str, typer.Option("--outcome", help="How it ended: malicious, normal or unclear.")
    ] = "unclear",
    note: Note = "",
    by: By = "",
    url: ServiceURL = LOCAL,
    as_json: AsJSON = False,
) -> None:
    """Say that an incident is dealt with. Later alerts of the same principals begin a new one.

    Example:  `kubehabit incidents close 7d0c6a1f52b8e934 --outcome malicious --note "Token revoked."`
    """
    body = {"outcome": outcome, "note": note, "by": by}
    _tell(_service(url).post("incidents", incident_id, "close", body=body), "incident_page", as_json)


@incidents_app.command("note")
def incidents_note(
    incident_id: IncidentID,
    text: Annotated[str, typer.Argument(help="What is to be remembered.", show_default=False)],
    by: By = "",
    url: ServiceURL = LOCAL,
    as_json: AsJSON = False,
) -> None:
    """Write something into the trail of an incident. It changes nothing, and cannot be changed.

    Example:  `kubehabit incidents note 7d0c6a1f52b8e934 "Called Judy: it was not her." --by carol`
    """
    body = {"note": text, "by": by}
    _tell(_service(url).post("incidents", incident_id, "notes", body=body), "incident_page", as_json)


AskedService = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="KUBEHABIT_URL",
        help="Ask the `kubehabit serve` at this address, with the token of KUBEHABIT_TOKEN. Default: the files on this machine.",
        show_default=False,
    ),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder of the event store. Default: events.path of the settings, .kubehabit/events.",
        file_okay=False,
        show_default=False,
    ),
]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        help="From when on: how long ago (30m, 12h, 7d), a time of day in UTC (14:02), a day, or an RFC 3339 time.",
    ),
]
SinceAny = Annotated[
    str | None,
    typer.Option(
        "--since",
        help="From when on: 30m, 12h, 7d, 14:02 (UTC), 2026-11-24, or an RFC 3339 time. Default: as far back as the store goes.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", help="Up to when, written like --since.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for another program.")]


@who_app.command("touched")
def who_touched(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="Kind, as kubectl takes it: secret, pods, crb.", show_default=False
        ),
    ],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAMESPACE/][NAME]",
            help="payments/db is that one; payments/ is all in a namespace; db is that name anywhere; none is all.",
            show_default=False,
        ),
    ] = None,
    since: Since = "7d",
    until: Until = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Leave out who listed or watched all of the kind, and so saw it too."),
    ] = False,
    store: StoreFolder = None,
    url: AskedService = None,
    as_json: AsJson = False,
) -> None:
    """Show who touched an object: how, how often, when, from where and with what; refused attempts too.

    Who listed or watched all Secrets of the namespace, or of the cluster, has seen this one as well, and is shown.

    Example:  `kubehabit who touched secret payments/db --since 7d`

    Next:  `kubehabit principal NAME` for one of them, or `kubehabit events` for every event.
    """
    from serving.forensics import commands

    commands.touched(kind, what, since, until, commands.asked(store, _asked(url, store)), exact, as_json)


@who_is_new_app.command("in")
def who_is_new_in(
    namespace: Annotated[str, typer.Argument(metavar="NAMESPACE", show_default=False)],
    since: Since = "7d",
    until: Until = None,
    store: StoreFolder = None,
    url: AskedService = None,
    as_json: AsJson = False,
) -> None:
    """Show which principals came to a namespace that had never been seen in it before.

    Before means as far back as the store goes, which the answer says.

    Example:  `kubehabit who is new in payments --since 7d`

    Next:  `kubehabit events --namespace payments --principal NAME` for what one of them did there.
    """
    from serving.forensics import commands

    commands.newcomers(namespace, since, until, commands.asked(store, _asked(url, store)), as_json)


@app.command()
def events(
    principal: Annotated[
        str | None,
        typer.Option("--principal", "-p", help="Who acted, or was impersonated.", show_default=False),
    ] = None,
    credential: Annotated[
        str | None,
        typer.Option(
            "--credential",
            help="ID of the token or certificate used, with or without JTI=. Kubernetes logs it since 1.30.",
            show_default=False,
        ),
    ] = None,
    verb: Annotated[
        list[str] | None, typer.Option("--verb", help="May be repeated.", show_default=False)
    ] = None,
    resource: Annotated[
        str | None, typer.Option("--resource", help="Kind, as kubectl takes it.", show_default=False)
    ] = None,
    subresource: Annotated[
        str | None, typer.Option("--subresource", help="Such as exec, log or token.", show_default=False)
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the object.", show_default=False)] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="One of the addresses logged.", show_default=False)
    ] = None,
    user_agent: Annotated[
        str | None, typer.Option("--user-agent", help="How it begins: kubectl/v1.29", show_default=False)
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", help="Answer: 403, 4xx or 400-499.", show_default=False)
    ] = None,
    audit_id: Annotated[
        list[str] | None, typer.Option("--audit-id", help="May be repeated.", show_default=False)
    ] = None,
    alert: Annotated[
        str | None, typer.Option("--alert", help="Events that raised or grew it.", show_default=False)
    ] = None,
    since: SinceAny = None,
    until: Until = None,
    newest: Annotated[bool, typer.Option("--newest", help="Begin with the newest.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="Most events.", min=1, max=10_000)] = 100,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where the last answer ended.", show_default=False)
    ] = None,
    original: Annotated[
        bool,
        typer.Option(
            "--original", help="The events' own text, one a line; Secret contents and tokens are redacted."
        ),
    ] = False,
    store: StoreFolder = None,
    url: AskedService = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for another program.")
    ] = False,
) -> None:
    """List the events that were received, oldest first. All that is given must hold.

    Example:  `kubehabit events --credential 3f2a8c1e-0d5b-4b7e-9f10-2a6c8e4d7b91 --since 14:02`

    Next:  `kubehabit evidence --audit-id ID --out FOLDER`, to keep some of them with proof.
    """
    from serving.forensics import commands
    from serving.forensics.queries import EventFilter, moment_of, resource_of
    from serving.parameters import codes_of

    wanted = EventFilter(
        since=None if since is None else moment_of(since),
        until=None if until is None else moment_of(until),
        principal=principal,
        credential=credential,
        verbs=tuple(verb or ()),
        resource=None if resource is None else resource_of(resource),
        subresource=subresource,
        namespace=namespace,
        name=name,
        address=address,
        user_agent=user_agent,
        codes=codes_of(code),
        audit_ids=tuple(audit_id or ()),
        alert=alert,
    )
    questions = commands.asked(store, _asked(url, store))
    commands.events(wanted, limit, cursor, newest, original, questions, as_json)


@app.command()
def principals(
    search: Annotated[
        str,
        typer.Argument(metavar="[SEARCH]", help="Part of the name or of the peer group.", show_default=False),
    ] = "",
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="human, serviceaccount, node, component, controller or anonymous."),
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            "--order", help="last (who acted last), name, or nearest (who came nearest to an alert)."
        ),
    ] = "last",
    limit: Annotated[int, typer.Option("--limit", help="Most to list.", min=1, max=500)] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where the last answer ended.", show_default=False)
    ] = None,
    url: ServiceURL = LOCAL,
    as_json: AsJSON = False,
) -> None:
    """List the principals that a running service knows: from training, or because they acted since.

    Example:  `kubehabit principals ci-deployer --order nearest`

    Next:  `kubehabit principal NAME`, for the habits of one.
    """
    given = {"search": search or None, "kind": kind, "order": order, "limit": limit, "cursor": cursor}
    answer = _service(url).get("principals", **given)
    _show(answer, "principals_table", as_json)


@app.command()
def principal(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A user name; a service account is system:serviceaccount:NAMESPACE:NAME.",
            show_default=False,
        ),
    ],
    since: SinceAny = None,
    until: Until = None,
    store: StoreFolder = None,
    url: AskedService = None,
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            help="File of how unusual everybody was. Default: history.path of the settings, .kubehabit/state/history.db.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one principal: what it did and when, from where and with what, how unusual that was, and how its peers differ.

    Reads the files of a service, so it works beside a running one, after it, or on a copy; with --url it asks a running one.

    Example:  `kubehabit principal alice@example.com --since 7d`

    Next:  `kubehabit events --principal NAME`, for each event; `kubehabit data profile`, for its habits in a log.
    """
    from serving.forensics import commands

    service = None if history is not None else _asked(url, store)
    commands.principal(name, since, until, store, history, service, as_json)


@app.command()
def model(
    preview: Annotated[
        bool, typer.Option("--preview", help="Tell what other thresholds would have given. Changes nothing.")
    ] = False,
    days: Annotated[float, typer.Option("--days", help="How far to look back.", min=0.01, max=366)] = 7,
    per_day: Annotated[
        float | None,
        typer.Option(
            "--per-day",
            help="Alerts a day that are bearable: the least threshold that keeps to it. Implies --preview.",
            min=0.01,
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            help="A threshold, as a share of the calibrated one, 0.3 to 10. Implies --preview.",
            min=0.3,
            max=10,
            show_default=False,
        ),
    ] = None,
    url: ServiceURL = LOCAL,
    as_json: AsJSON = False,
) -> None:
    """Show the model that a running service serves: its version, what it learned from, whether it still fits the cluster.

    With --preview: what other thresholds would have given over past weeks, and how to set one.

    Example:  `kubehabit model --preview --days 28 --per-day 3`

    Next:  `kubehabit drift LOG`, for whom the cluster has changed; `kubehabit promote`, for another version.
    """
    service = _service(url)
    if preview or per_day is not None or scale is not None:
        answer = service.get("model", "preview", days=days, perDay=per_day, scale=scale)
        _show(answer, "preview_screen", as_json)
        return
    from data.errors import NotFoundError

    told = service.get("model")
    try:
        drift = service.get("model", "drift", days=days)
    except NotFoundError:
        drift = None
    _show({"model": told, "drift": drift, "scale": told["thresholdScale"]}, "model_screen", as_json)


def _show(answer: Any, screen: str, as_json: bool) -> None:
    """Print an answer: as it came, or by a function of `serving.history.screens`."""
    if as_json:
        typer.echo(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    from serving.history import screens
    from serving.screens import show

    show(getattr(screens, screen)(answer))


@app.command()
def evidence(
    incident: Annotated[
        str | None,
        typer.Option(
            "--incident",
            help="ID of an incident: its story, and every request of it and of what followed.",
            show_default=False,
        ),
    ] = None,
    alert: Annotated[
        list[str] | None, typer.Option("--alert", help="ID of an alert; may be repeated.", show_default=False)
    ] = None,
    audit_id: Annotated[
        list[str] | None,
        typer.Option("--audit-id", help="Audit ID of a request; may be repeated.", show_default=False),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(
            "--principal", "-p", help="Everything it did between --since and --until.", show_default=False
        ),
    ] = None,
    since: SinceAny = None,
    until: Until = None,
    note: Annotated[
        str, typer.Option("--note", help="Why it is exported; kept in the ledger.", show_default=False)
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.", file_okay=False)] = Path(
        "evidence"
    ),
    store: StoreFolder = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Settings of the service, for its store of alerts. Default: the shipped serve.yaml.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    url: AskedService = None,
) -> None:
    """Export evidence: the original events with checksums and proof, the alerts, the model, and who exported it when.

    Of an incident it also tells the story: where it began, how it spread, what was touched, what followed. Writes a JSON file
    that can be verified anywhere, and an HTML page to be read and printed, which holds that file. The export itself is noted
    in the store's ledger. Without --url the stores on this machine are read.

    Example:  `kubehabit evidence --incident 7d0c6a1f52b8e934 --note "Case 2026-117" --out evidence`

    Next:  `kubehabit verify evidence/….json`
    """
    from serving.forensics import commands
    from serving.forensics.evidence.export import Subject
    from serving.forensics.queries import moment_of

    wanted = Subject(
        incident=incident,
        alerts=tuple(alert or ()),
        audit_ids=tuple(audit_id or ()),
        principal=principal,
        since=None if since is None else moment_of(since),
        until=None if until is None else moment_of(until),
        note=note,
    )
    if incident is not None and (alert or audit_id or principal):
        _fail("an incident is exported by itself: leave out --alert, --audit-id and --principal.", 2)
    service = _asked(url, store)
    if service is not None:
        commands.evidence_of_service(wanted, out, service)
    else:
        commands.evidence(wanted, out, store, config)


@app.command()
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A file of evidence. Without one the event store is checked.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    store: StoreFolder = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            help="Head of an earlier report: shows whether the ledger was cut off or written anew since.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            help="Ed25519 public key (PEM) that the ledger has to be signed with.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    gap_minutes: Annotated[
        float, typer.Option("--gap-minutes", help="Time without an event that is told as a gap.", min=0.0)
    ] = 10,
    as_json: AsJson = False,
) -> None:
    """Check that no event in the store was changed, removed, added or reordered, and tell gaps in time.

    Exit status 1 says that something is not as it was written. Works while the service runs.

    Example:  `kubehabit verify --key kubehabit.pub --head 1042:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`

    Next:  keep the head that it prints somewhere else, for the next time.
    """
    from serving.forensics import commands

    raise typer.Exit(commands.verify(file, store, head, key, gap_minutes, as_json))


@app.command()
def demo(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            help="Folder for what the demo makes; emptied first. Default: .kubehabit/demo.",
            file_okay=False,
            show_default=False,
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
    from training.demo import run

    run(home)


def _print_figures(figures: Mapping[str, Any]) -> None:
    """Print an evaluation: single figures one a line, then one line for each scenario."""
    for name, value in figures.items():
        if isinstance(value, bool | int | str) or value is None:
            typer.echo(f"  {name:<32} {value}")
        elif isinstance(value, float):
            typer.echo(f"  {name:<32} {value:.4g}")
    for run in figures.get("runs", []):
        what = "look-alike" if run["kind"] != "attack" else run["class"]
        verdict = "caught" if run["detected"] else "-"
        typer.echo(f"  {verdict:<8} {what:<12} {run['scenario']:<40} {run['principal']}")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="kubehabit")


if __name__ == "__main__":
    main()
