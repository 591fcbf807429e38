"""SIGKILL at random moments, again and again: each episode is one home, whose service is killed until it got everything done."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tests.serving.postgres import Postgres
from tests.soak import fork_server
from tests.soak.expected import Expected, difference, expect, judge, look_at
from tests.soak.fork_server import Ended, Sigkill
from tests.soak.material import VERSIONS, Material
from tests.soak.migration import downgraded
from tests.soak.service import Lifetime, Tell, live, prepare_process

#: Kinds of episodes, and how often each comes.
KINDS = {"ingest": 8, "reload": 3, "retention": 4, "migration": 2, "postgres": 3}
#: Kills of one home, at most.
_MOST_KILLS = 60
#: Seconds after `ready`, or after the fork, within which a process is killed.
_WORKING_SECONDS = 0.15
_STARTING_SECONDS = 0.4
#: Changes to files, of which a start makes some 40 and each batch some 20: it is killed at one of the first, rarely later.
_CHANGES, _MANY_CHANGES = 120, 600
_SLOW_WRITER = 0.1


@dataclass(slots=True)
class Episode:
    """What one home went through.

    Attributes:
        kills: number of kills.
        phases: by what the process was doing: starting, working, ending.
        places: kills by the function that was about to change a file.
        refused: batches that were refused, by reason.
        again: alerts that a sink got a second time as they were.
        problems: what was not as it must be; empty is good.
    """

    number: int
    kind: str
    kills: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    again: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in found.items()}


class Kills:
    """Episodes over the same batches.

    Args:
        material: model and batches.
        folder: for homes; that of an episode with problems is kept.
        seed: an episode's plan follows from it and the episode's number.
        kinds: kinds of episodes, and how often each comes.
    """

    def __init__(
        self, material: Material, folder: Path, seed: int, kinds: dict[str, int] | None = None
    ) -> None:
        self._material, self._folder, self._seed = material, folder, seed
        self._kinds = KINDS if kinds is None else kinds
        self._expected: dict[str, Expected] = {}
        self._postgres: Postgres | None = None

    def close(self) -> None:
        """End what was started for the episodes."""
        if self._postgres is not None:
            self._postgres.stop()

    def kind_of(self, number: int) -> str:
        """Kind of an episode."""
        kinds = [kind for kind, times in self._kinds.items() for _ in range(times)]
        random.Random(f"{self._seed}").shuffle(kinds)
        return kinds[number % len(kinds)]

    def expected(self, kind: str) -> Expected:
        """What an undisturbed service says; kinds that change nothing in it share one run."""
        kind = kind if kind in ("reload", "retention") else "ingest"
        if kind not in self._expected:
            self._expected[kind] = expect(self._material, self._folder / f"undisturbed-{kind}", kind)
        return self._expected[kind]

    def episode(self, number: int, most: int = _MOST_KILLS) -> Episode:
        """Sigkill the service of one home until all is done, or so many times; then let it finish, and look at everything."""
        chance = random.Random(f"{self._seed}-{number}")
        episode = Episode(number, self.kind_of(number))
        began = time.monotonic()
        home = self._folder / f"episode-{number}"
        shutil.rmtree(home, ignore_errors=True)
        life = self._begin(home, episode.kind, number)
        ended = None
        while episode.kills < most and (ended is None or ended.how == "killed"):
            ended = self._live(life, chance, episode)
            life = self._after(life, ended, episode)
        if ended is None or ended.how == "killed":
            ended = self._run(life, None)
            life = self._after(life, ended, episode)
        if ended.how == "closed":
            self._judge(life, ended, episode)
        log = home / "log"
        if log.exists() and "Traceback" in (text := log.read_text(errors="replace")):
            episode.problems.append("an unexpected error: " + text[text.index("Traceback") - 300 :][:1500])
        episode.seconds = round(time.monotonic() - began, 1)
        if not episode.problems:
            shutil.rmtree(home)
        return episode

    # -- one home -----------------------------------------------------------------------------------------------

    def _begin(self, home: Path, kind: str, number: int) -> Lifetime:
        life = Lifetime(home, kind, seed=0)
        self.expected(kind)
        if kind == "migration":
            half = len(self._material.bodies) // 2
            downgraded(self._material, self._folder / "half", home, half, revision=1 + number % 5)
            return replace(life, first=half)
        home.mkdir(parents=True)
        if kind == "reload":
            (home / "champion").write_text("1")
        if kind == "postgres":
            if self._postgres is None:
                self._postgres = Postgres()
                self._postgres.start()
            return replace(life, store=self._postgres.database())
        return life

    def _live(self, life: Lifetime, chance: random.Random, episode: Episode) -> Ended:
        life = replace(life, seed=chance.randrange(1 << 30), slow_writer=chance.random() < _SLOW_WRITER)
        if life.kind == "reload":
            self._move_champion(life.home, chance)
        way = chance.random()
        if way < 0.45:
            life = replace(
                life, kill_at=chance.randint(1, _CHANGES if chance.random() < 0.85 else _MANY_CHANGES)
            )
            return self._run(life, Sigkill(30.0, "ready"))
        if way < 0.65:
            return self._run(life, Sigkill(chance.random() * _STARTING_SECONDS))
        return self._run(life, Sigkill(chance.random() * _WORKING_SECONDS, "ready"))

    def _move_champion(self, home: Path, chance: random.Random) -> None:
        """Promote another version, now or while the service runs, or take the registry away."""
        file = home / "champion"
        if chance.random() < 0.2 and any((home / "models" / "kubehabit").glob("alias-*")):
            file.unlink(missing_ok=True)
        else:
            file.write_text(chance.choice(VERSIONS))

    def _run(self, life: Lifetime, kill: Sigkill | None) -> Ended:
        def work(tell: Tell) -> None:
            prepare_process(life, log=life.home / "log")
            live(life, self._material, tell)

        if life.kind == "reload" and kill is None:
            (life.home / "champion").write_text(VERSIONS[0])
        return fork_server.run(work, kill)

    # -- what must be true --------------------------------------------------------------------------------------

    def _after(self, life: Lifetime, ended: Ended, episode: Episode) -> Lifetime:
        """Count and check one life; the next begins with the first batch that was not acknowledged."""
        if ended.how == "killed":
            episode.kills += 1
            episode.phases[ended.phase] += 1
            if (killing := ended.last("killing")) is not None:
                episode.places[killing["place"]] += 1
        elif ended.how != "closed":
            failed = ended.last("failed") or {"trace": ""}
            episode.problems.append(
                f"a process {ended.how} in kill {episode.kills}: {failed['trace'][-2000:]}"
            )
        episode.refused.update(one["reason"] for one in ended.all("refused"))
        ready = ended.last("ready")
        if ready is not None and life.kind != "retention":
            states = self.expected(life.kind).states
            # The batch that was under way may have become durable without its answer.
            if ready["state"] not in states[life.first : life.first + 2]:
                what = difference(states[life.first], ready["state"])
                episode.problems.append(
                    f"after kill {episode.kills} and {life.first} batches the alerts differ: {what}"
                )
        done = ended.last("acknowledged")
        return life if done is None else replace(life, first=done["number"] + 1)

    def _judge(self, life: Lifetime, ended: Ended, episode: Episode) -> None:
        found = look_at(life)
        episode.again = 0 if found is None else found["sent"]["again"]
        episode.problems += judge(life, ended, found, self.expected(life.kind))


def campaign(
    kills: Kills, wanted: int, done: list[dict[str, Any]], save: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """Run episodes until there were so many kills, and print how it goes; `done` are the episodes of an earlier run."""
    began, before = time.monotonic(), sum(one["kills"] for one in done)
    while (count := sum(one["kills"] for one in done)) < wanted:
        episode = kills.episode(len(done))
        done.append(episode.to_dict())
        save(done)
        count += episode.kills
        pace = (time.monotonic() - began) / max(count - before, 1)
        print(
            f"episode {episode.number} {episode.kind}: {episode.kills} kills in {episode.seconds:.0f} s, "
            f"{len(episode.problems)} problems; {count} of {wanted}, {pace:.2f} s a kill, "
            f"{max(wanted - count, 0) * pace / 60:.0f} minutes to go",
            flush=True,
        )
        for problem in episode.problems:
            print(f"  {problem}", flush=True)
    return done
