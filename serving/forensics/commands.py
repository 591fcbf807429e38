"""What `kubehabit who`, `events`, `principal`, `evidence` and `verify` do: ask the store on this machine and print the answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.errors import KubehabitError
from serving.alerts import clean
from serving.forensics import clock
from serving.forensics.queries import (
    EventFilter,
    EventQueries,
    Life,
    Newcomer,
    Top,
    Touch,
    moment_of,
    resource_of,
)
from serving.forensics.records import EventRecord, what_of
from serving.settings import Settings, load_settings

if TYPE_CHECKING:
    from serving.forensics.ask import Answers
    from serving.forensics.evidence.export import Subject
    from serving.forensics.verify import Report
    from serving.incidents import Incidents
    from serving.remote import Remote

_SHOWN = 3
_MAX_NOTE = 2000
_SECONDS = 300.0
"""A person can press Ctrl-C."""


def settings_of(config: Path | None) -> Settings:
    """Settings of the service whose store is asked."""
    return load_settings(config)


def asked(store: Path | None, service: Remote | None) -> Answers:
    """Whom to ask: a running service, or the files on this machine."""
    if service is None:
        return open_questions(store)
    from serving.forensics.ask import RemoteAnswers

    return RemoteAnswers(service)


def open_questions(store: Path | None) -> EventQueries:
    """Questions to the store in a folder, or in that of the settings."""
    settings = settings_of(None)
    return EventQueries(
        (store or settings.events.resolved_path).absolute(),
        memory_mb=settings.events.memory_mb,
        seconds=_SECONDS,
    )


def _moment(text: str | None) -> int | None:
    return None if text is None else moment_of(text)


def _print_json(content: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n")


def _console() -> Console:
    # A pipe has no width; a table that is cut at 80 columns is of no use in a file.
    return Console() if sys.stdout.isatty() else Console(width=200)


def object_of(kind: str, what: str | None) -> EventFilter:
    """What is meant by `secret payments/db` (that one), `secret payments/` (all of the namespace), `node n1` or `secret`."""
    namespace, slash, name = (what or "").partition("/")
    if not slash:
        namespace, name = "", namespace
    return EventFilter(resource=resource_of(kind), namespace=namespace or None, name=name or None)


def touched(
    kind: str, what: str | None, since: str, until: str | None, questions: Answers, exact: bool, as_json: bool
) -> None:
    """Print who touched an object."""
    wanted = replace(object_of(kind, what), since=_moment(since), until=_moment(until))
    found = questions.touched(wanted, listings=not exact)
    if as_json:
        _print_json({"touched": found})
        return
    console = _console()
    object_ = f"{wanted.resource} {what}" if what else str(wanted.resource)
    if not found:
        console.print(f"Nobody touched {escape(object_)} since {since}.{_reach(questions)}")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("Who", "Did", "Times", "Refused", "First", "Last", "From", "With"):
        table.add_column(head, overflow="fold", justify="right" if head in ("Times", "Refused") else "left")
    for one in found:
        table.add_row(*map(escape, _touch_row(one, wanted)))
    people = len({one.principal for one in found})
    console.print(table)
    console.print(
        f"\n{people} principals touched {escape(object_)} since {since} (times are UTC).{_reach(questions)}\n"
        f"Next: kubehabit principal {escape(found[0].principal)} --since {since}",
        highlight=False,
    )


def _touch_row(one: Touch, wanted: EventFilter) -> tuple[str, ...]:
    did = one.verb + (f" {one.subresource}" if one.subresource else "")
    if one.how == "list":
        did += f" (of all {wanted.resource})"
    who = one.principal + (f" as {', '.join(one.acted_as)}" if one.acted_as else "")
    refused = one.count - one.allowed
    return (
        who,
        did,
        f"{one.count:,}",
        f"{refused:,}" if refused else "",
        _short(one.first),
        _short(one.last),
        _few(one.addresses),
        _few(one.user_agents),
    )


def newcomers(namespace: str, since: str, until: str | None, questions: Answers, as_json: bool) -> None:
    """Print who is new in a namespace."""
    found = questions.newcomers(namespace, moment_of(since), _moment(until))
    earliest = questions.earliest()
    if as_json:
        begins = None if earliest is None else clock.written(earliest)
        _print_json({"newcomers": found, "storeBegins": begins})
        return
    console = _console()
    if not found:
        console.print(
            f"Nobody came to {escape(namespace)} since {since} who had not been there before.{_reach(questions)}"
        )
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("Who", "First here", "Actions", "Refused", "Did", "To", "From", "In the cluster since"):
        table.add_column(head, overflow="fold", justify="right" if head in ("Actions", "Refused") else "left")
    for one in found:
        table.add_row(*map(escape, _newcomer_row(one)))
    console.print(table)
    console.print(
        f"\n{len(found)} principals came to {escape(namespace)} since {since} and were never seen in it before (times are UTC)."
        f"{_reach(questions)}\nNext: kubehabit events --namespace {escape(namespace)} --principal {escape(found[0].principal)}",
        highlight=False,
    )


def _newcomer_row(one: Newcomer) -> tuple[str, ...]:
    refused = one.count - one.allowed
    return (
        one.principal,
        _short(one.first),
        f"{one.count:,}",
        f"{refused:,}" if refused else "",
        _few(one.verbs, 6),
        _few(one.resources, 6),
        _few(one.addresses),
        _short(one.known_since),
    )


def events(
    wanted: EventFilter,
    limit: int,
    cursor: str | None,
    newest: bool,
    original: bool,
    questions: Answers,
    as_json: bool,
) -> None:
    """Print events."""
    from serving.forensics.routes import document_of

    page = questions.events(wanted, limit=limit, cursor=cursor, newest=newest, texts=original)
    if as_json or original:
        write = sys.stdout.write
        for record in page.records:
            line = (
                record.event
                if original
                else msgspec.json.encode(document_of(record, original=False)).decode()
            )
            write(line + "\n")
    else:
        console = _console()
        if not page.records:
            console.print(f"No such event.{_reach(questions)}")
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for head in ("Time (UTC)", "Who", "Did", "Answer", "From", "With", "Audit ID"):
            table.add_column(head, overflow="fold")
        for record in page.records:
            table.add_row(*map(escape, _event_row(record)))
        console.print(table)
    if page.cursor is not None:
        print(f"There are more: the same with --cursor {page.cursor}, or a larger --limit.", file=sys.stderr)


def _event_row(record: EventRecord) -> tuple[str, ...]:
    who = record.principal + (f" as {record.impersonated}" if record.impersonated else "")
    return (
        clock.written(record.time)[:23].replace("T", " "),
        who,
        f"{record.verb} {what_of(record._asdict())}",
        str(record.code or record.stage),
        record.source_ips.partition(",")[0],
        record.user_agent.partition(" ")[0],
        record.audit_id,
    )


def principal(
    name: str,
    since: str | None,
    until: str | None,
    store: Path | None,
    history: Path | None,
    service: Remote | None,
    as_json: bool,
) -> None:
    """Print what a principal did, its habits, how unusual it was over time, and how its peers differ."""
    span = (_moment(since), _moment(until))
    if service is None:
        questions = open_questions(store)
        found, past = questions.life(name, *span), _past(questions, name, history, *span)
    else:
        from serving.forensics.ask import RemoteAnswers

        answers = RemoteAnswers(service)
        found = answers.life(name, *span)
        past = {} if found is None else answers.past(name, *span)
    if found is None or past["habits"] is None:
        raise KubehabitError(
            f"There is no event of {name!r} in that time. A service account is system:serviceaccount:NAMESPACE:NAME; see who "
            "there is with: kubehabit principals"
        )
    if as_json:
        _print_json(msgspec.to_builtins(found) | past)
        return
    from serving.history import screens

    console = _console()
    _print_life(console, found)
    console.print(screens.habits_screen(past["habits"]), highlight=False)
    if past["surprise"] is not None:
        console.print(screens.surprise_screen(past["surprise"]), highlight=False)
        console.print(screens.peers_screen(past["peers"]), highlight=False)
    if found.alerts:
        console.print(f"\n[bold]Alerts[/bold]  {', '.join(found.alerts)}", highlight=False)
        console.print(f"Next: kubehabit evidence --alert {found.alerts[0]} --out evidence", highlight=False)


def _past(
    questions: EventQueries, name: str, history: Path | None, since: int | None, until: int | None
) -> dict[str, Any]:
    """Habits, surprise over time and peers, as the API gives them; None for what there is no file of beside the store."""
    from serving.forensics.principal_habits import compared, habits_of
    from serving.history.queries import HistoryReader
    from serving.history.schema import HistoryError

    habits = habits_of(questions, name, since, until)
    settings = settings_of(None)
    path = history or settings.history.resolved_path(settings.state.resolved_path)
    surprise, others = None, []
    try:
        reader = HistoryReader(path)
    except HistoryError:
        if history is not None:
            raise
    else:
        told = reader.surprise(name)
        surprise = None if told is None else told.model_dump(mode="json", by_alias=True)
        others = reader.peers(name)
    peers = compared(questions, name, others, since, until)
    return {"habits": msgspec.to_builtins(habits), "surprise": surprise, "peers": msgspec.to_builtins(peers)}


def _print_life(console: Console, found: Life) -> None:
    refused = found.count - found.allowed
    console.print(f"[bold]{escape(found.principal)}[/bold]", highlight=False)
    console.print(
        f"{found.count:,} events, {refused:,} refused or failed, from {_short(found.first)} to {_short(found.last)} (UTC)",
        highlight=False,
    )
    parts: Sequence[tuple[str, list[Top]]] = (
        ("Did", found.did),
        ("In namespaces", found.namespaces),
        ("From", found.addresses),
        ("With", found.user_agents),
        ("Credentials", found.credentials),
        (
            "Logged as",
            [] if [top.value for top in found.user_names] == [found.principal] else found.user_names,
        ),
    )
    for head, tops in parts:
        if tops:
            console.print(f"\n[bold]{head}[/bold]")
            for top in tops:
                console.print(f"  {top.count:>10,}  {escape(top.value)}", highlight=False)


def _reach(questions: Answers) -> str:
    """How far back the answer reaches."""
    earliest = questions.earliest()
    if earliest is None:
        return " The store is empty."
    return f" The store begins {_short(clock.written(earliest))} UTC."


def _short(time: str) -> str:
    return time[:19].replace("T", " ")


def _few(values: Sequence[str], most: int = _SHOWN) -> str:
    shown = [value.partition(" ")[0] for value in values[:most]]
    more = len(values) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def evidence(wanted: Subject, out: Path, store: Path | None, config: Path | None) -> None:
    """Write a file of evidence and its page, from the stores on this machine."""
    from serving.explainer import Explainer
    from serving.forensics.evidence.export import export, exporter
    from serving.forensics.evidence.incident import alerts_named
    from serving.forensics.evidence.model_card import describe_model
    from serving.forensics.ledger import Ledger, load_signing_key
    from serving.incidents import Incidents
    from serving.store import AlertStore, shown_url

    settings = settings_of(config)
    questions = open_questions(store or settings.events.resolved_path)
    alerts: list[dict[str, Any]] = []
    judges: dict[tuple[str, str], None] = {}
    incident, words = None, None
    wanted = msgspec.structs.replace(wanted, note=clean(wanted.note, _MAX_NOTE))
    if wanted.incident is not None or wanted.alerts:
        kept = AlertStore.from_settings(settings.store)
        incidents = Incidents(kept, Explainer.load(settings.explain_path))
        words = incidents.words
        if wanted.incident is not None:
            incident = _incident(incidents, wanted.incident, settings)
            wanted = msgspec.structs.replace(wanted, alerts=tuple(alerts_named(incident)))
        for alert_id in wanted.alerts:
            alert = kept.get(alert_id)
            if alert is None:
                raise KubehabitError(
                    f"There is no alert {alert_id!r} in {shown_url(settings.store.resolved_url)}."
                )
            alerts.append(alert.model_dump(mode="json", by_alias=True))
            judges[alert.model.name, alert.model.version] = None
        kept.close()
    key = None if settings.events.signing_key is None else load_signing_key(settings.events.signing_key)
    made = export(
        questions,
        Ledger(questions.folder, key),
        wanted,
        by=exporter(),
        incident=incident,
        alerts=alerts,
        models=[describe_model(settings.model.cache_dir, *judge) for judge in judges],
        words=words,
    )
    _write_evidence(made, wanted.incident, out)


def _incident(incidents: Incidents, name: str, settings: Settings) -> dict[str, Any]:
    """An incident of the alert store, as the API gives it."""
    from serving.store import shown_url

    found = incidents.get(name)
    if found is None:
        raise KubehabitError(
            f"There is no incident {name!r} in {shown_url(settings.store.resolved_url)}. See `kubehabit incidents`; "
            "a service elsewhere is asked with --url."
        )
    if found.state == "merged":
        raise KubehabitError(f"Incident {name} was merged into {found.merged_into}: export that one.")
    if not found.alerts:
        raise KubehabitError(f"Incident {name} holds no alert any more: they were deleted by age.")
    return found.model_dump(mode="json", by_alias=True)


def evidence_of_service(wanted: Subject, out: Path, service: Remote) -> None:
    """Write a file of evidence and its page, exported by a running service."""
    from serving.forensics.evidence.export import exporter

    said: dict[str, Any] = {"note": wanted.note, "by": exporter()}
    if wanted.incident is not None:
        made = service.post_for_file("incidents", wanted.incident, "evidence", body=said)
    else:
        span = {
            name: clock.written(moment)
            for name, moment in (("since", wanted.since), ("until", wanted.until))
            if moment is not None
        }
        subject = {
            "alerts": wanted.alerts,
            "auditIDs": wanted.audit_ids,
            "principal": wanted.principal,
        }
        made = service.post_for_file("evidence", body=said | subject | span)
    _write_evidence(made, wanted.incident, out)


def _write_evidence(made: bytes, incident: str | None, out: Path) -> None:
    from serving.forensics.evidence.page import render

    content = msgspec.json.decode(made)["content"]
    out.mkdir(parents=True, exist_ok=True)
    of = f"{incident}-" if incident is not None else ""
    name = f"evidence-{of}{clock.written(clock.now())[:19].replace(':', '').replace('-', '')}Z"
    for suffix, text in ((".json", made), (".html", render(made).encode())):
        path = out / (name + suffix)
        path.write_bytes(text)
        path.chmod(0o600)
    if content["missing"]:
        print(
            f"{len(content['missing']):,} of the requests asked for are not in the store; the file names them.",
            file=sys.stderr,
        )
    print(
        f"{len(content['events']):,} events: {out / name}.html to read and print, {out / name}.json with the proof."
    )
    print(f"Next: kubehabit verify {out / name}.json")


def verify(
    file: Path | None,
    store: Path | None,
    head: str | None,
    key: Path | None,
    gap_minutes: float,
    as_json: bool,
) -> int:
    """Check the store, or a file of evidence; returns the exit status: 0 if all is as it was written, else 1."""
    from serving.forensics.ledger import load_public_key
    from serving.forensics.verify import verify as verify_store

    public = None if key is None else load_public_key(key)
    if file is not None:
        from serving.forensics.evidence.export import check
        from serving.forensics.evidence.page import check_page

        checked = check(file, public)
        checked.findings.extend(check_page(file))
        if as_json:
            _print_json(checked)
        else:
            for finding in checked.findings:
                print(f"NOT SOUND  {finding}")
            state = "is as it was made" if not checked.findings else "is NOT as it was made"
            of = f"incident {checked.incident}, " if checked.incident else ""
            lacking = (
                f" It says of {checked.missing:,} more requests that the store did not hold them."
                if checked.missing
                else ""
            )
            print(
                f"{file} {state}: {of}{checked.events:,} events, exported {checked.created} by {checked.by}.{lacking}"
            )
            print(f"Signed with {checked.signed}." if checked.signed else "Not signed.")
            print(f"Hold the store against it with: kubehabit verify --head {checked.head}")
        return 1 if checked.findings else 0
    folder = (store or settings_of(None).events.resolved_path).absolute()
    stderr = Console(stderr=True)
    with stderr.status("Reading the ledger") as status:
        report = verify_store(
            folder,
            key=public,
            head=head,
            gap_seconds=60 * gap_minutes,
            on_records=lambda count: status.update(f"{count:,} records checked"),
        )
    if as_json:
        _print_json(report.to_dict())
    else:
        _print_report(report)
    return 0 if report.is_sound else 1


def _print_report(report: Report) -> None:
    for finding in report.findings:
        print(f"NOT SOUND  {finding.where}: {finding.what}")
    for gap in report.gaps:
        if gap.after and gap.seconds:
            print(f"gap        {gap.after} to {gap.before} ({gap.seconds / 60:,.0f} min): {gap.why}")
        else:
            print(f"gap        {gap.before}: {gap.why}")
    state = (
        "All is as it was written"
        if report.is_sound
        else f"{len(report.findings)} things are NOT as they were written"
    )
    rate = report.records / max(report.seconds, 1e-9)
    print(
        f"{state}: {report.records:,} records in {report.files:,} files, {report.segments:,} segments, {report.lines:,} lines "
        f"of the ledger, in {report.seconds:.1f} s ({rate:,.0f} records/s)."
    )
    if report.dropped:
        print(
            f"{report.dropped:,} older records were dropped by retention; the ledger still holds the roots of their segments."
        )
    print(
        f"Signed with {report.signed}."
        if report.signed
        else "The ledger is chained, not signed (events.signing_key)."
    )
    print(
        f"Head: {report.head}  (note it down: --head shows later whether anything was cut off or written anew)"
    )
