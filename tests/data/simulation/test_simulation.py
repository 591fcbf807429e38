"""The twin: genuine events, in order, the same for one seed, with every scenario labelled truthfully."""

from __future__ import annotations

import json
import resource
from collections import Counter
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from data.actions.encoder import ActionEncoder
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from data.principals.identity import identify
from data.simulation import Summary, load_settings, simulate
from data.simulation.config import MachineSettings, SimulationSettings
from data.simulation.kernel import audit_ids
from data.simulation.scenarios import SCENARIOS
from data.simulation.steps import body_of, compiled, parse
from kubehabit.main import app as command_line

FILES = ("normal.jsonl.zst", "labelled.jsonl.zst", "labels.json")
MINUTES = 1 / 1440
NEEDS = {"NS", "RV", "RATE", "SLOW", "CLIENT", "ORDER", "CODE", "BODY", "NAME", "URI", "XP", "IMP", "ABS"}
LABEL_KEYS = set(
    json.loads((Path(__file__).parents[3] / "data/recordings/labels.json").read_text("utf-8"))[0]
)


def lines_of(log: Path) -> list[bytes]:
    return list(open_lines(log))


def events_of(log: Path) -> list[AuditEvent]:
    decoded = decode_lines(lines_of(log))
    assert not decoded.dead, decoded.dead[0]
    return decoded.events


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """Twelve busy minutes of a small cluster, with everything that can happen to it."""
    out = tmp_path_factory.mktemp("twin")
    return out, simulate(out, 60, 20 * MINUTES, 3, settings=load_settings(profile="recording"))


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A week of a small cluster with nights and a weekend, without the machines' loops."""
    out = tmp_path_factory.mktemp("week")
    settings = load_settings()
    simulate(out, 40, 8, 5, attacks="none", settings=settings)
    return out


@pytest.fixture(scope="module")
def events(twin: tuple[Path, Summary]) -> list[AuditEvent]:
    return [event for name in FILES[:2] for event in events_of(twin[0] / name)]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    settings = load_settings(profile="recording")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, 20, 4 * MINUTES, seed, settings=settings)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_every_event_is_read_and_becomes_an_action_or_a_folded_stage(
    twin: tuple[Path, Summary], events: list[AuditEvent]
) -> None:
    summary = twin[1]
    assert len(events) == summary.normal_events + summary.labelled_events
    batch = ActionEncoder().encode(events)
    assert len(batch) + len(batch.folded) == len(events)


def test_events_come_in_the_order_in_which_they_were_answered(events: list[AuditEvent]) -> None:
    stages = [event.stageTimestamp for event in events]
    assert stages == sorted(stages)
    assert all(event.requestReceivedTimestamp < event.stageTimestamp for event in events)


def test_events_have_the_fields_and_the_order_of_fields_of_the_recordings(
    twin: tuple[Path, Summary], normal_lines: list[bytes]
) -> None:
    real = {tuple(json.loads(line)) for line in normal_lines}
    made = {tuple(json.loads(line)) for line in islice(open_lines(twin[0] / FILES[0]), 6000)}
    assert made <= real
    real_refs = {tuple(json.loads(line).get("objectRef", {})) for line in normal_lines}
    made_refs = {
        tuple(json.loads(line).get("objectRef", {})) for line in islice(open_lines(twin[0] / FILES[0]), 6000)
    }
    assert made_refs <= real_refs


def test_the_request_uri_says_what_the_object_reference_says(events: list[AuditEvent]) -> None:
    for event in events:
        ref = event.objectRef
        if ref is None:
            continue
        path = event.requestURI.partition("?")[0].split("/")
        assert ref.resource in path
        if ref.apiGroup:
            assert path[1:4] == ["apis", ref.apiGroup, ref.apiVersion]
        else:
            assert path[1:3] == ["api", ref.apiVersion]
        if ref.namespace and ref.resource != "namespaces":
            assert f"/namespaces/{ref.namespace}/" in event.requestURI
        if ref.subresource:
            assert f"/{ref.name}/{ref.subresource}" in event.requestURI
        elif ref.name and event.verb in ("get", "update", "patch", "delete"):
            assert path[-1] == ref.name


def test_streams_are_logged_when_they_begin_and_when_they_end(events: list[AuditEvent]) -> None:
    begun = [event for event in events if event.stage == "ResponseStarted"]
    assert {event.verb for event in begun} >= {"watch", "create", "get"}
    ended = {event.auditID: event for event in events if event.stage == "ResponseComplete"}
    both = [event for event in begun if event.auditID in ended]
    assert len(both) > len(begun) / 3
    for event in both:
        assert ended[event.auditID].requestReceivedTimestamp == event.requestReceivedTimestamp
        assert ended[event.auditID].stageTimestamp > event.stageTimestamp


def test_bodies_follow_the_audit_policy(events: list[AuditEvent]) -> None:
    for event in events:
        body = bytes(event.requestObject)
        if body:
            assert event.verb in ("create", "update", "patch", "delete")
            assert event.objectRef is not None
            assert event.objectRef.resource not in ("secrets", "configmaps", "events", "leases")
            msgspec.json.decode(body)
    assert any(event.requestObject for event in events)


def test_refusals_misses_and_conflicts_are_part_of_normal_work(twin: tuple[Path, Summary]) -> None:
    answers = Counter(
        event.responseStatus.code for event in events_of(twin[0] / FILES[0]) if event.responseStatus
    )
    assert {200, 201, 101, 403, 404, 409} <= set(answers)
    assert answers[200] > 0.7 * answers.total()
    for event in events_of(twin[0] / FILES[0]):
        assert event.annotations is not None
        forbidden = event.annotations.decision == "forbid"
        assert forbidden == (event.responseStatus is not None and event.responseStatus.code == 403)


def test_audit_ids_are_random_for_everybody(events: list[AuditEvent]) -> None:
    requests = {event.auditID for event in events}
    assert all(
        len(audit_id) == 36 and audit_id[14] == "4" and audit_id[19] in "89ab" for audit_id in requests
    )
    first = list(islice(audit_ids(1), 3000))
    assert len(set(first)) == 3000
    assert first == list(islice(audit_ids(1), 3000))


def test_every_scenario_happens_and_its_label_is_true(twin: tuple[Path, Summary]) -> None:
    out, summary = twin
    labels = json.loads((out / "labels.json").read_text("utf-8"))
    assert {label["scenario"] for label in labels} == set(SCENARIOS)
    assert summary.attacks + summary.lookalikes == len(labels)
    by_id: dict[str, AuditEvent] = {}
    for event in events_of(out / FILES[1]):
        by_id.setdefault(event.auditID, event)
    for label in labels:
        assert set(label) >= LABEL_KEYS
        assert set(label["needs"]) <= NEEDS
        assert label["mode"] in ("same", "new-ip", "new-ua", "new-ip-and-ua")
        own = [by_id[audit_id] for audit_id in label["audit_ids"]]
        assert own
        assert {event.user.username for event in own} == {label["principal"]}
        begin, end = datetime.fromisoformat(label["start"]), datetime.fromisoformat(label["end"])
        assert begin <= end
        for event in own:
            assert begin <= datetime.fromisoformat(event.stageTimestamp) <= end
        for audit_id in label["induced_audit_ids"]:
            assert audit_id in by_id
            assert by_id[audit_id].user.username.startswith("system:")
            assert audit_id not in label["audit_ids"]


def test_what_an_attack_makes_controllers_do_is_kept_apart(twin: tuple[Path, Summary]) -> None:
    labels = {label["scenario"]: label for label in json.loads((twin[0] / "labels.json").read_text("utf-8"))}
    for scenario in (
        "miner-deployment-stealth",
        "miner-daemonset-privileged",
        "sidecar-injection",
        "privileged-pod",
    ):
        assert labels[scenario]["induced_audit_ids"], scenario
    assert not labels["dev-cred-other-team-configmaps"]["induced_audit_ids"]


def test_a_thief_comes_from_the_owner_s_own_place_in_half_of_the_runs_and_the_owner_goes_on(
    twin: tuple[Path, Summary], events: list[AuditEvent]
) -> None:
    labels = [
        run for run in json.loads((twin[0] / "labels.json").read_text("utf-8")) if run["kind"] == "attack"
    ]
    same = [run for run in labels if run["mode"] == "same"]
    assert 0.3 < len(same) / len(labels) < 0.75
    attacks = {audit_id for run in labels for audit_id in run["audit_ids"]}
    usual = {(e.user.username, e.sourceIPs, e.userAgent) for e in events if e.auditID not in attacks}
    own = {event.auditID: event for event in events}
    known = sum(
        all((e.user.username, e.sourceIPs, e.userAgent) in usual for e in (own[i] for i in run["audit_ids"]))
        for run in same
    )
    assert known >= 0.9 * len(same)
    people = {run["principal"] for run in same if "@" in run["principal"]}
    for person in people:
        assert any(
            event.user.username == person and event.auditID not in attacks
            for event in events_of(twin[0] / FILES[1])
        )


def test_slow_attacks_take_their_time_and_are_dealt_out_as_often_as_asked_for(tmp_path: Path) -> None:
    settings = load_settings(profile="weeks")
    simulate(tmp_path, 40, 6, 2, attacks="dev-cred-low-slow-secrets,slow-log-reading", settings=settings)
    labels = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert Counter(label["scenario"] for label in labels) == dict.fromkeys(
        ("dev-cred-low-slow-secrets", "slow-log-reading"), settings.attacks.slow_runs
    )
    for label in labels:
        lasted = datetime.fromisoformat(label["end"]) - datetime.fromisoformat(label["start"])
        assert lasted.total_seconds() > 6 * 3600


def test_people_sleep_and_rest(week: Path) -> None:
    hours: Counter[str] = Counter()
    for name in FILES[:2]:
        for event in events_of(week / name):
            if identify(event.user.username, event.user.groups).kind == "human":
                when = datetime.fromisoformat(event.requestReceivedTimestamp)
                hours["weekend" if when.weekday() >= 5 else "day" if 7 <= when.hour < 20 else "night"] += 1
    assert hours["day"] > 5 * hours["night"]
    assert hours["day"] > 10 * hours["weekend"]


def test_a_pager_wakes_the_rota_alone(tmp_path: Path) -> None:
    settings = load_settings(profile="weeks")
    pages = replace(settings, people=replace(settings.people, night_pages_a_week=7.0))
    nights: dict[str, set[str]] = {}
    simulate(tmp_path, 30, 4, 5, attacks="none", settings=pages)
    rota = set()
    for event in (event for name in FILES[:2] for event in events_of(tmp_path / name)):
        if any("sre" in group for group in event.user.groups):
            rota.add(event.user.username)
        if identify(event.user.username, event.user.groups).kind == "human":
            day, hour = event.requestReceivedTimestamp[:10], int(event.requestReceivedTimestamp[11:13])
            if hour < 6:
                nights.setdefault(event.user.username, set()).add(day)
    assert rota
    assert nights.keys() == rota
    assert all(len(days) == 4 for days in nights.values())


def test_machines_never_sleep(week: Path) -> None:
    hours = Counter(
        event.requestReceivedTimestamp[11:13]
        for event in events_of(week / FILES[0])
        if event.user.username.startswith("system:serviceaccount:")
    )
    assert len(hours) == 24
    assert min(hours.values()) > 0.3 * max(hours.values())


def test_memory_does_not_grow_with_the_days(tmp_path: Path) -> None:
    simulate(tmp_path / "short", 30, 1, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    simulate(tmp_path / "long", 30, 6, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


def test_a_cluster_of_any_size_has_about_as_many_principals_as_asked_for(tmp_path: Path) -> None:
    for asked in (40, 200, 3000):
        summary = simulate(tmp_path / str(asked), asked, 0.01, 1, attacks="none")
        assert 0.9 * asked <= summary.principals <= 1.1 * asked + 20
        assert summary.normal_events > 0


def test_a_lean_policy_keeps_writes_and_reads_of_secrets_and_drops_what_machines_only_look_at(
    tmp_path: Path,
) -> None:
    settings = load_settings(profile="weeks")
    summary = simulate(tmp_path, 40, 1, 1, settings=settings)
    read: Counter[str] = Counter()
    for name in FILES[:2]:
        for event in events_of(tmp_path / name):
            kind = identify(event.user.username, event.user.groups).kind
            resource = event.objectRef.resource if event.objectRef else ""
            if event.verb == "watch":
                assert kind == "human", event.requestURI
            if kind in ("node", "component") and event.verb in ("get", "list"):
                read[resource] += 1
    assert set(read) <= {"secrets", "configmaps", "pods", "nodes", ""}
    labels = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert {label["scenario"] for label in labels} == set(SCENARIOS)
    dense = simulate(tmp_path / "dense", 40, 1, 1)
    assert summary.normal_events < 0.7 * dense.normal_events


def test_what_ordinary_jobs_run_and_who_lets_accounts_do_their_work_is_as_recorded(
    twin: tuple[Path, Summary],
) -> None:
    """Giveaways that would make detection easier on the twin than in life."""
    bindings: dict[str, set[str]] = {}
    for event in events_of(twin[0] / FILES[0]):
        body = bytes(event.requestObject)
        if event.objectRef is not None and event.objectRef.resource == "jobs" and event.verb == "create":
            spec = json.loads(body)["spec"]["template"]["spec"]
            assert all("command" not in container for container in spec["containers"])
        reason = (event.annotations.reason if event.annotations else None) or ""
        if event.user.username.startswith("system:serviceaccount:") and "Binding" in reason:
            bindings.setdefault(event.user.username, set()).add(reason.split('"')[1])
    for who, expected in (
        ("system:serviceaccount:monitoring:prometheus-k8s", "debug-node-proxy"),
        ("system:serviceaccount:kyverno:kyverno", "kyverno-webhooks"),
        ("system:serviceaccount:cicd:gitlab-runner", "gitlab-runner-admin"),
    ):
        assert expected in bindings[who]


def test_cron_jobs_own_their_jobs(events: list[AuditEvent]) -> None:
    made = [
        json.loads(bytes(event.requestObject))
        for event in events
        if event.user.username.endswith(":cronjob-controller")
        and event.verb == "create"
        and event.objectRef is not None
        and event.objectRef.resource == "jobs"
    ]
    assert made
    assert {body["metadata"]["ownerReferences"][0]["kind"] for body in made} == {"CronJob"}


def test_no_attacks_no_labels(tmp_path: Path) -> None:
    summary = simulate(tmp_path, 12, 0.02, 1, attacks="none")
    assert summary.attacks == summary.lookalikes == 0
    assert json.loads((tmp_path / "labels.json").read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("principals", "days", "attacks", "sentence"),
    [
        (9, 1.0, "all", "at least 10 principals"),
        (10, 0.0, "all", "greater than 0"),
        (10, 1.0, "no-such-thing", "There is no scenario no-such-thing"),
    ],
)
def test_bad_arguments_are_answered_with_a_sentence(
    tmp_path: Path, principals: int, days: float, attacks: str, sentence: str
) -> None:
    with pytest.raises(KubehabitError, match=sentence):
        simulate(tmp_path, principals, days, 1, attacks=attacks)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense: 1", "Unknown simulation setting"),
        ("people: 3", "must be a mapping"),
        ("policy: maybe", "must be `everything`, `production` or `lean`"),
        ("train_share: 2", "between 0 and 1"),
        ("people: {holidays: 4}", "must be a list"),
        ("machines: {pace: fast}", "must be a number"),
        ("- 1", "must hold a mapping"),
        ("people: {calendar: moon}", "must be `office` or `always`"),
    ],
)
def test_bad_settings_are_answered_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(KubehabitError, match=sentence):
        load_settings(path)


def test_the_shipped_settings_are_the_defaults_written_out() -> None:
    assert load_settings() == SimulationSettings()
    with pytest.raises(KubehabitError, match="no simulation profile"):
        load_settings(profile="none-such")
    assert load_settings(profile="recording").machines != MachineSettings()


def test_every_line_of_every_scenario_is_a_step_with_a_body_that_is_json() -> None:
    from random import Random

    scene = dict.fromkeys(("ns", "app", "me", "name", "image", "now", "hex"), "x")
    for scenario in SCENARIOS.values():
        for line in scenario.lines:
            head, _, rest = line.partition(" ")
            step = parse(rest if head[:-1].isdigit() else line)
            if step.body:
                json.loads(body_of(step.body, scene, Random(1)))


@pytest.mark.parametrize("line", ["get gadgets web", "get pods web $5"])
def test_a_step_that_says_nothing_known_is_refused(line: str) -> None:
    with pytest.raises(KubehabitError, match="Unknown"):
        compiled([line])


def test_the_command_line_writes_a_twin(tmp_path: Path) -> None:
    arguments = [
        "data",
        "simulate",
        "--out",
        str(tmp_path),
        "--principals",
        "12",
        "--days",
        "0.02",
        "--seed",
        "4",
    ]
    done = CliRunner().invoke(command_line, arguments)
    assert done.exit_code == 0, done.output
    assert "attack runs" in done.output
    assert all((tmp_path / name).exists() for name in FILES)
    done = CliRunner().invoke(command_line, [*arguments, "--attacks", "sleeping"])
    assert done.exit_code == 2
    assert "There is no scenario sleeping" in done.output


@pytest.mark.slow
def test_a_large_cluster_is_written(tmp_path: Path) -> None:
    summary = simulate(tmp_path, 20_000, 0.02, 1, attacks="all")
    assert summary.normal_events + summary.labelled_events > 50_000
