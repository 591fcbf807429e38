"""The cluster twin: generates audit logs of realistic clusters with labelled attacks from a seed (docs/twin.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import monotonic

import zstandard
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from data.errors import KubehabitError
from data.simulation.attacks import Campaign, choose
from data.simulation.cluster import make_cast
from data.simulation.config import DAY, SECOND, SimulationSettings, load_settings
from data.simulation.control_plane import start_machines
from data.simulation.kernel import Kernel
from data.simulation.people import start_people
from data.simulation.world import World
from data.work_progress import WorkProgress

__all__ = ["SimulationSettings", "Summary", "load_settings", "simulate"]
MIN_PRINCIPALS = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written."""

    normal_events: int
    labelled_events: int
    principals: int
    attacks: int
    lookalikes: int
    seconds: float
    out: Path

    def describe(self) -> str:
        """A few lines for the terminal."""
        events = self.normal_events + self.labelled_events
        return (
            f"{events:,} events of {self.principals:,} principals in {self.seconds:.1f} s "
            f"({events / max(self.seconds, 1e-9):,.0f} events/s)\n"
            f"  {self.out / 'normal.jsonl.zst'}: {self.normal_events:,} events, normal work\n"
            f"  {self.out / 'labelled.jsonl.zst'}: {self.labelled_events:,} events, with {self.attacks} attack runs and "
            f"{self.lookalikes} look-alikes\n"
            f"  {self.out / 'labels.json'}: what was done in it"
        )


def _start_of(settings: SimulationSettings) -> int:
    try:
        return int(datetime.fromisoformat(settings.start).astimezone(UTC).timestamp()) * SECOND
    except ValueError as error:
        raise KubehabitError(
            f"simulate.start is no date: {settings.start!r}. Write it like 2026-11-02T00:00:00Z."
        ) from error


def simulate(
    out: Path,
    principals: int,
    days: float,
    seed: int,
    *,
    attacks: str = "all",
    settings: SimulationSettings | None = None,
    progress: bool = False,
) -> Summary:
    """Write the audit log of a simulated cluster: normal work, then normal work with attacks, and the labels.

    Memory grows with the principals, not with the days. The same arguments give the same bytes.

    Args:
        out: folder for `normal.jsonl.zst`, `labelled.jsonl.zst` and `labels.json`.
        principals: approximate number of principals (at least 10).
        days: simulated days in total.
        seed: of all random choices.
        attacks: `all`, `none`, or scenario names separated by commas.
        settings: default: the shipped ones.

    Raises:
        KubehabitError: bad arguments, an unknown scenario, or a folder that cannot be written.
    """
    settings = settings or load_settings()
    if principals < MIN_PRINCIPALS:
        raise KubehabitError(
            f"A cluster has at least {MIN_PRINCIPALS} principals; give --principals {MIN_PRINCIPALS} or more."
        )
    if not days > 0:
        raise KubehabitError("--days must be greater than 0.")
    scenarios = choose(attacks)
    start = _start_of(settings)
    end = start + int(days * DAY)
    split = start + int(days * settings.train_share * DAY)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [(out / f"{name}.jsonl.zst").open("wb") for name in ("normal", "labelled")]
    except OSError as error:
        raise KubehabitError(
            f"Cannot write to {out}: {error.strerror}. Choose another folder with --out."
        ) from error
    writers = [zstandard.ZstdCompressor(level=3).stream_writer(file) for file in files]
    began = monotonic()
    cast = make_cast(settings, principals, Random(seed))
    kernel = Kernel(start, seed, settings.policy, writers[0].write)
    world = World(kernel, cast, settings)
    start_machines(world)
    start_people(world, days)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[events]:,} events"),
        TimeRemainingColumn(),
    )
    with WorkProgress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("simulating", total=end - start, events=0)

        def tick(now: int) -> None:
            bar.update(task, completed=now - start, events=kernel.events)

        kernel.run(split, tick if progress else None)
        kernel.set_sink(writers[1].write)
        normal = kernel.events
        campaign = Campaign(world, scenarios, split, end)
        kernel.run(end, tick if progress else None)
    for writer in writers:
        writer.close()  # type: ignore[no-untyped-call]
    labels = campaign.labels()
    (out / "labels.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")
    kinds = [label["kind"] for label in labels]
    attack_runs, lookalikes = kinds.count("attack"), kinds.count("benign-lookalike")
    events, seconds = kernel.events - normal, monotonic() - began
    return Summary(normal, events, cast.size(), attack_runs, lookalikes, seconds, out)
