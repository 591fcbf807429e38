"""kube-apiserver's webhook, with recorded events: whatever comes between, each is scored once."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.alerts.explain.explainer import Explainer
from tests.deploy.apiserver import Webhook
from tests.deploy.served import Served
from tests.serving.receivers import until

BATCH = 400
OUTCOMES = ("scored", "folded", "repeated", "rejected")


def keys(lines: list[bytes]) -> list[tuple[str, str]]:
    return [(event["auditID"], event["stage"]) for event in map(json.loads, lines)]


def batches(lines: list[bytes]) -> list[list[bytes]]:
    return [lines[start : start + BATCH] for start in range(0, len(lines), BATCH)]


def counted(served: Served, **outcomes: int) -> bool:
    """Whether so many events have met each fate; `judged` are those that were scored or folded."""
    found = served.metrics()
    counts = {name: found[f'kubehabit_events_total{{outcome="{name}"}}'] for name in OUTCOMES}
    counts["judged"] = counts["scored"] + counts["folded"]
    return all(counts[name] == count for name, count in outcomes.items())


def test_recorded_batches_are_answered_and_every_event_is_scored_in_order(
    served: Served, normal_lines: list[bytes]
) -> None:
    lines = normal_lines[:2000]
    webhook = Webhook(served.port)
    for batch in batches(lines):
        assert webhook.process(batch)
    assert webhook.statuses == [200] * 5
    until(lambda: len(served.seen) == len(lines))
    assert served.seen == keys(lines)
    until(lambda: counted(served, judged=len(lines), repeated=0, rejected=0))


def test_what_is_sent_again_because_its_answer_was_lost_is_scored_once(
    served: Served, normal_lines: list[bytes]
) -> None:
    first, second = batches(normal_lines[: 2 * BATCH])
    webhook = Webhook(served.port)
    webhook.lose_the_answer(first)
    until(lambda: len(served.seen) == BATCH)
    assert webhook.process(first)
    assert webhook.process(second)
    until(lambda: counted(served, judged=2 * BATCH, repeated=BATCH))
    assert served.seen == keys(first + second)


def test_batches_sent_side_by_side_are_all_scored(served: Served, normal_lines: list[bytes]) -> None:
    lines = normal_lines[:4000]
    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(lambda batch: Webhook(served.port).process(batch), batches(lines)))
    until(lambda: len(served.seen) == len(lines))
    assert Counter(served.seen) == Counter(keys(lines))


def test_a_restart_between_two_attempts_loses_nothing(served: Served, normal_lines: list[bytes]) -> None:
    lines = normal_lines[: 3 * BATCH]
    before, during, after = batches(lines)
    webhook = Webhook(served.port, initial_backoff=0.3)
    assert webhook.process(before)
    served.stop()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(webhook.process, during)
        until(lambda: 0 in webhook.statuses)
        served.start()
        assert sending.result(60)
    assert webhook.process(after)
    assert webhook.dropped == 0
    # What the process before had journalled may be gone through again, to know what it knew: in the same order, as nothing new.
    until(lambda: list(dict.fromkeys(served.seen)) == keys(lines))


def test_a_sender_that_gets_retry_after_comes_back_later(
    tmp_path: Path, explainer: Explainer, normal_lines: list[bytes]
) -> None:
    busy = Served(tmp_path / "busy", explainer, limits={"waiting_requests": 1})
    busy.start()
    try:
        lines = normal_lines[:4000]
        webhooks = [Webhook(busy.port) for _ in batches(lines)]
        with ThreadPoolExecutor(len(webhooks)) as pool:
            assert all(pool.map(lambda webhook, batch: webhook.process(batch), webhooks, batches(lines)))
        until(lambda: len(busy.seen) == len(lines))
        assert Counter(busy.seen) == Counter(keys(lines))
        assert 503 in [status for webhook in webhooks for status in webhook.statuses]
    finally:
        busy.stop()


def test_an_event_that_the_api_server_cut_down_is_scored_without_its_body(served: Served) -> None:
    cut = {
        "level": "Metadata",
        "auditID": "4b5b4a5e-0000-4000-8000-000000000001",
        "stage": "ResponseComplete",
        "requestURI": "/apis/apps/v1/namespaces/web/deployments",
        "verb": "create",
        "user": {"username": "alice@corp", "groups": ["dev"]},
        "objectRef": {"resource": "deployments", "namespace": "web", "apiGroup": "apps"},
        "responseStatus": {"metadata": {}, "code": 201},
        "requestReceivedTimestamp": "2026-11-23T14:31:12.575126Z",
        "stageTimestamp": "2026-11-23T14:31:12.586453Z",
        "annotations": {"audit.k8s.io/truncated": "true"},
    }
    assert Webhook(served.port).process([json.dumps(cut).encode()])
    until(lambda: counted(served, scored=1))


def test_a_wrong_token_is_tried_five_times_and_then_given_up(
    tmp_path: Path, explainer: Explainer, normal_lines: list[bytes]
) -> None:
    """As in life: which is why the log on disk stays, and why the refusals are counted."""
    guarded = Served(tmp_path / "guarded", explainer, token="a-token-of-16-characters")
    guarded.start()
    try:
        webhook = Webhook(guarded.port, token="another-of-16-characters", initial_backoff=0.001)
        assert not webhook.process(normal_lines[:10])
        assert webhook.statuses == [401] * 5
        assert Webhook(guarded.port, token="a-token-of-16-characters").process(normal_lines[:10])
        until(lambda: len(guarded.seen) == 10)
    finally:
        guarded.stop()
