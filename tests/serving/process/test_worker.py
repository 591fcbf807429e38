"""A worker runs its step until it is closed, wakes at once, and outlives a step that fails."""

from __future__ import annotations

import threading

import pytest

from serving.process.worker import Worker


def test_it_steps_again_and_again_until_it_is_closed() -> None:
    calls, enough = [], threading.Event()

    def step() -> None:
        calls.append(1)
        if len(calls) == 3:
            enough.set()

    worker = Worker("steps", step, seconds=0.001)
    worker.start()
    assert enough.wait(10)
    worker.close()
    assert not worker.is_alive


def test_waking_cuts_the_pause_short_and_closing_does_too() -> None:
    steps = threading.Semaphore(0)
    worker = Worker("wakes", steps.release)
    worker.start()
    for _ in range(3):
        assert steps.acquire(timeout=10)
        worker.wake()
    worker.close(10)
    assert not worker.is_alive


def test_a_step_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    calls, again = [], threading.Event()

    def step() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("a defect")
        again.set()

    worker = Worker("fails", step, seconds=0.001)
    worker.start()
    assert again.wait(10)
    worker.close()
    assert "a step failed" in caplog.text


def test_a_step_ends_the_worker_by_saying_no_and_what_finishes_it_runs_last() -> None:
    ran: list[str] = []

    def step() -> bool:
        ran.append("step")
        return False

    worker = Worker("ends", step, finish=lambda: ran.append("finish"), pause_first=True, seconds=0)
    worker.start()
    worker.join(10)
    assert ran == ["step", "finish"]


def test_closing_one_that_never_started_is_nothing() -> None:
    Worker("idle", lambda: None).close()
