"""`kubehabit serve`, `send`, `score` and `model`: a live service, or the same verdicts for one file."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

app = opt.room("")

#: How long to wait for a registry that the service has not asked before.
_REGISTRY_SECONDS = 30


@app.command("serve")
def serve(
    config: opt.ServeConfig = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", min=1, max=65535)] = None,
) -> None:
    """Serve the champion: score audit events as they arrive, show alerts in the console, answer at /v1, /docs and /metrics.

    A log pipeline posts events to /v1/score; a kube-apiserver posts its audit webhook to /v1/audit.

    Example:  `kubehabit serve --config configs/serve.yaml --port 8646`

    Next:  open its address in a browser: alerts show up there once events have come in. The API is described at /docs.
    """
    from serving.process.resources import configure_allocator
    from serving.registry.client import started_client

    configure_allocator()
    with started_client():
        from serving.server import serve as run_server

        run_server(config or opt.shipped("serve.yaml"), host, port)


@app.command("send")
@interruptible("What the service took stays there: send the same files again, it recognises what it has.")
def send(logs: opt.Logs, url: opt.Url = None, as_json: opt.AsJson = False) -> None:
    """Send logs to a running service once, for example to fill a gap; a batch that meets a busy service is sent again.

    Sending a log twice is harmless: the service recognises events that it has had. To follow a growing log, use Vector or
    Fluent Bit with the configurations in deploy/. Exit status 1 says that some records were rejected.

    Asks a running service.

    Example:  `kubehabit send /var/log/kubernetes/audit/audit-2026-11-24.log.gz --url http://127.0.0.1:8646`

    Next:  `kubehabit alerts --since 1h`
    """
    from dataclasses import asdict

    from kubehabit.client.send import Sender

    sender = Sender(opt.remote(url), lambda sentence: opt.say(sentence, err=True))
    try:
        sent = sender.send(logs)
    finally:
        if as_json:
            opt.print_json(asdict(sender.sent))
        else:
            opt.say(sender.sent.describe())
    for problem in sent.problems:
        opt.say(f"warning: {problem}", err=True)
    raise typer.Exit(1 if sent.problems else 0)


@app.command("score")
@interruptible("Nothing is stored by scoring a file: start it again.")
def score(log: opt.Log, model: opt.Model = opt.CHAMPION, as_json: opt.JsonLines = False) -> None:
    """Score one log file from beginning to end and print its alerts. Nothing is stored, no server is needed.

    Exit status 1 says that some records could not be read; all others were scored.

    Example:  `kubehabit score audit.log.gz`

    Next:  `kubehabit serve`, to get the same answers while things happen.
    """
    from serving.rollout.score_file import score_log

    scored = score_log(log, model)
    if as_json:
        for alert in scored.alerts:
            opt.say_json(alert.model_dump_json(by_alias=True))
    else:
        opt.show(scored, "alerts.scored_log", as_json)
    if scored.why_nothing:
        opt.say(f"warning: {scored.why_nothing}", err=True)
    if sentence := scored.left_out.sentence():
        opt.say(f"warning: {sentence} Everything else was scored.", err=True)
    if scored.left_out.unreadable:
        raise typer.Exit(1)


@app.command("model")
def model(
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what other thresholds would have given. Changes nothing.")
    ] = False,
    days: Annotated[float, typer.Option("--days", help="Days to look back.", min=0.01, max=366)] = 7,
    per_day: Annotated[
        float | None,
        typer.Option(
            "--per-day",
            help="Find the lowest threshold that gives at most this many alerts a day. Implies --preview.",
            min=0.01,
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            "--scale",
            help="A threshold, as a multiple of the calibrated one, 0.3 to 10. Implies --preview.",
            min=0.3,
            max=10,
        ),
    ] = None,
    versions: Annotated[
        bool,
        typer.Option(
            "--versions", help="Compare all versions in the registry, and show what was promoted when."
        ),
    ] = False,
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show the model that a running service serves: its version, what it learned from, whether it still fits the cluster.

    With --preview: what other thresholds would have given over past weeks, and how to set one.
    With --versions: every version in the registry, who promoted which and why.
    Asks a running service.

    Example:  `kubehabit model --preview --days 28 --per-day 3`

    Next:  `kubehabit drift LOG`, to see which principals changed; `kubehabit promote`, for another version.
    """
    from kubehabit.client.remote import AnswerError

    service = opt.remote(url)
    if versions:
        answer = service.get("model", "versions")
        for _ in range(_REGISTRY_SECONDS):
            if answer["asked"] or not answer["asking"]:
                break
            time.sleep(1)
            answer = service.get("model", "versions")
        screen = "versions.versions_screen"
    elif preview or per_day is not None or scale is not None:
        answer = service.get("model", "preview", days=days, perDay=per_day, scale=scale)
        screen = "model.preview_screen"
    else:
        served = service.get("model")
        try:
            drift = service.get("model", "drift", days=days)
        except AnswerError as error:
            if error.status != HTTPStatus.NOT_FOUND:  # nothing was scored yet
                raise
            drift = None
        answer = {"model": served, "drift": drift, "scale": served["thresholdScale"]}
        screen = "model.model_screen"
    opt.show(answer, screen, as_json)
