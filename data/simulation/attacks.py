"""Runs scenarios: chooses credential, time and origin, and labels the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from data.errors import KubehabitError
from data.simulation.cluster import (
    HELM,
    KUBECTL,
    NEWER,
    UNVERSIONED,
    Account,
    ActorIdentity,
    ApiClient,
    Grant,
    Rights,
    SimulatedPerson,
    binding,
    home_address,
    office_address,
    service_account,
)
from data.simulation.config import DAY, SECOND
from data.simulation.control_plane import pipeline
from data.simulation.kernel import Process
from data.simulation.people import at_work, client_of, work
from data.simulation.scenarios import SCENARIOS, Scenario
from data.simulation.steps import Scene, parse
from data.simulation.world import World

_TOOLS = ("curl/8.5.0", "python-requests/2.31.0", "Go-http-client/2.0", "okhttp/4.9.3", *NEWER)
_NEW_ACCOUNTS = {
    "new-ci": ("cicd", "gha-runner", NEWER[0]),
    "new-rotator": ("vault", "secret-rotator", f"vault-secrets-operator/{UNVERSIONED}"),
    "new-backup": ("backup", "velero", "velero-server/v1.13.0 (linux/amd64) 1f2d7b9"),
    "new-monitoring": ("monitoring", "prometheus-operator", "Go-http-client/2.0"),
    "new-scanner": ("security", "trivy-operator", f"trivy-operator/{UNVERSIONED}"),
    "new-upgrader": ("kube-system", "upgrade-controller", "kubeadm/v1.30.1 (linux/amd64) kubernetes/6911225"),
}
_VERBS = {"create": "POST", "update": "PUT", "patch": "PATCH"} | dict.fromkeys(
    ("delete", "deletecollection"), "DELETE"
)


_ACCOUNT_ROLES = {
    "ci": ("ci-deployer",),
    "runner": ("gitlab-runner", "ci-deployer"),
    "app": ("reader", "leader", "poller", "watcher", "jobber"),
}


@dataclass(slots=True)
class AttackRun:
    """One run of a scenario and what its label needs."""

    scenario: Scenario
    principal: str
    mode: str
    client: ApiClient
    start: int = 0
    end: int = 0
    ids: list[str] = field(default_factory=list)
    induced: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def label(self, world: World) -> dict[str, Any]:
        """The label, in the schema of the shipped recordings."""
        stamp = world.kernel.stamp
        scenario = self.scenario
        return {
            "scenario": scenario.name,
            "family": scenario.family,
            "kind": "benign-lookalike" if scenario.benign else "attack",
            "principal": self.principal,
            "principals": [self.principal],
            "start": stamp(self.start) + "Z",
            "end": stamp(self.end) + "Z",
            "audit_ids": list(dict.fromkeys(self.ids)),
            "note": f"UA {self.client.agent}; IP {self.client.address}" + ("; slow" if scenario.slow else ""),
            "calls": self.calls,
            "induced_audit_ids": list(dict.fromkeys(self.induced)),
            "ignore_audit_ids": [],
            "objects": [],
            "cleanup_end": stamp(self.end) + "Z",
            "error": None,
            "class": scenario.klass,
            "needs": list(scenario.needs),
            "mode": self.mode,
        }


def choose(wanted: str) -> list[Scenario]:
    """Scenarios named on the command line: `all`, `none`, or names separated by commas.

    Raises:
        KubehabitError: there is no such scenario.
    """
    if wanted == "none":
        return []
    if wanted == "all":
        return list(SCENARIOS.values())
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        raise KubehabitError(
            f"There is no scenario {', '.join(unknown)}. Known: {', '.join(sorted(SCENARIOS))}."
        )
    return [SCENARIOS[name] for name in names]


class Campaign:
    """All runs of a log, spread over its labelled part."""

    def __init__(self, world: World, scenarios: Sequence[Scenario], start: int, end: int) -> None:
        self.world = world
        self.runs: list[AttackRun] = []
        self._used: dict[str, int] = {}
        self._latest = start + int((end - start) * 0.97)
        random, settings = world.random, world.settings.attacks
        runs = {True: settings.slow_runs, False: settings.runs_per_scenario}
        plans = [scenario for scenario in scenarios for _ in range(runs[scenario.slow])]
        random.shuffle(plans)
        length = end - start
        for index, scenario in enumerate(plans):
            # The slow ones take from a third of `slow_days` to all of it.
            slow = int(min(settings.slow_days * DAY, length * 0.6)) if scenario.slow else 0
            slow = int(slow * (1 + 2 * random.random()) / 3)
            room = int(length * 0.9) - slow
            wait = random.randrange(max(1, room)) if slow else room * index // len(plans)
            when = start + int(length * 0.01) + wait
            world.kernel.spawn(self._run(scenario, slow), max(1, when - world.kernel.now))

    def labels(self) -> list[dict[str, Any]]:
        """Labels of all runs that left events, ordered by start."""
        done = [run for run in self.runs if run.ids]
        return [run.label(self.world) for run in sorted(done, key=lambda run: (run.start, run.scenario.name))]

    def _person(self, role: str) -> SimulatedPerson:
        """A person with a role, the least attacked so far."""
        world = self.world
        day = world.kernel.now // DAY - world.start_day
        found = [p for p in world.cast.people if p.role == role and p.first <= day <= p.last]
        found = found or [p for p in world.cast.people if p.role == "developer"] or world.cast.people
        world.random.shuffle(found)
        person = min(found, key=lambda p: self._used.get(p.who.name, 0))
        self._used[person.who.name] = self._used.get(person.who.name, 0) + 1
        return person

    def _account(self, role: str) -> Account | None:
        found = [a for a in self.world.cast.accounts if a.role == role]
        return self.world.random.choice(found) if found else None

    def _victim(self, scenario: Scenario) -> tuple[ApiClient, str, SimulatedPerson | None]:
        """ApiClient, namespace, and the person behind it, if any."""
        world, random, who = self.world, self.world.random, scenario.who
        everywhere = [team.namespace for team in world.cast.teams]
        if who == "anonymous":
            rights = Rights([], 'User \\"system:anonymous\\"')
            identity = ActorIdentity("system:anonymous", ("system:unauthenticated",), rights)
            identity.outside_reason = world.cast.controllers["anonymous"].who.outside_reason
            return ApiClient(identity, home_address(random), random.choice(_TOOLS[:3])), everywhere[0], None
        if who == "node":
            node = random.choice(world.cast.nodes)
            return node.client, everywhere[0], None
        if who in _NEW_ACCOUNTS:
            namespace, name, agent = _NEW_ACCOUNTS[who]
            reason = binding("ClusterRoleBinding", name, name, f'ServiceAccount \\"{name}/{namespace}\\"')
            identity = service_account(namespace, name, [Grant(reason)])
            address = f"10.244.{random.randrange(len(world.cast.nodes))}.{random.randrange(2, 250)}"
            machine = namespace == "kube-system"
            return ApiClient(identity, address, agent, machine), random.choice(everywhere), None
        if who == "joiner":
            person = self._person("developer")
            groups = (f"dev:{person.team.name}", "corp:devs", "system:authenticated")
            name = f"{person.who.name[:3]}{random.choice('aeiou')}r.{random.choice(('bo', 'ke', 'lu', 'mi'))}{random.choice(('ta', 'ro', 'ni'))}@corp.example"
            identity = ActorIdentity(name, groups, person.who.rights)
            client = ApiClient(identity, office_address(random, 4), random.choice(KUBECTL))
            joined = SimulatedPerson(
                client.who, "developer", person.team, [client], person.homes, person.shift, 1.0
            )
            return client, person.homes[0], joined
        account = None
        if who in _ACCOUNT_ROLES:
            found = map(self._account, _ACCOUNT_ROLES[who])
            account = next((one for one in found if one is not None), None)
        elif who not in "developer sre release dba security iac admin data-science dormant".split():
            account = self._account(who) or self._account("argocd-application-controller")
            account = account or world.cast.accounts[0]
        if account is not None:
            namespace = account.namespace if account.team else random.choice(everywhere)
            return account.client, namespace, None
        if who == "dormant":  # a person who has left; else a developer
            day = world.kernel.now // DAY - world.start_day
            gone = [one for one in world.cast.people if one.last < day]
            person = gone[0] if gone else self._person("developer")
        else:
            person = self._person(who)
        return client_of(world, person), person.homes[0], person

    def _approach(self, scenario: Scenario, client: ApiClient) -> tuple[str, ApiClient]:
        random, settings = self.world.random, self.world.settings.attacks
        if scenario.who in ("anonymous", "joiner") or scenario.who.startswith("new-"):
            return "new-ip-and-ua", client
        mode = scenario.mode
        if mode == "helm":
            return "same", client.other(agent=HELM)
        if mode == "night":
            return "new-ip", client.other(address=home_address(random))
        if not mode:
            same = random.random() < settings.same_client
            mode = "same" if same else random.choice(("new-ip", "new-ua", "new-ip-and-ua"))
        address = home_address(random) if "ip" in mode else ""
        agent = ""
        if "ua" in mode:
            pool = NEWER if "@" in client.who.name else _TOOLS
            agent = random.choice([a for a in pool if a != client.agent])
        return mode, client.other(address, agent)

    def _scene(self, client: ApiClient, namespace: str) -> Scene:
        world, random = self.world, self.world.random
        scene = world.scene(client.who, namespace)
        others = [team.namespace for team in world.cast.teams if team.namespace != namespace]
        others += ["prod", "staging"]
        random.shuffle(others)
        for number, place in enumerate(others[:3], 1):
            scene[f"t{number}"] = place
            scene[f"app{number}"] = random.choice(world.by_namespace[place]).name
        for number in range(len(others[:3]) + 1, 4):
            scene[f"t{number}"], scene[f"app{number}"] = others[0], scene["app1"]
        app = random.choice(world.cast.production)
        scene["prodapp"], scene["prodpod"] = app.name, app.pods[0][0] if app.pods else f"{app.name}-0"
        coredns = world.by_namespace["kube-system"][0]
        scene["kubepod"] = coredns.pods[0][0] if coredns.pods else "coredns-0"
        return scene

    def _run(self, scenario: Scenario, slow: int) -> Process:
        world, random = self.world, self.world.random
        base, namespace, person = self._victim(scenario)
        mode, client = self._approach(scenario, base)
        office = world.settings.people.calendar == "office"
        if office and person is not None and scenario.who not in ("dormant", "joiner") and mode == "same":
            yield self._wait_for_work(person)
        elif office and scenario.mode == "night":
            yield max(1, self._next_night() - world.kernel.now)
        run = AttackRun(scenario, client.who.name, mode, client, start=world.kernel.now)
        self.runs.append(run)
        acting = world.blaming(run.induced)
        scene = self._scene(client, namespace)
        lines: list[str] = []
        for line in scenario.lines:
            head, _, rest = line.partition(" ")
            lines += [rest] * int(head[:-1]) if head[:-1].isdigit() and head.endswith("x") else [line]
        pause = slow / max(1, len(lines))
        first = True
        for line in lines:
            step = parse(line)
            if not first or slow:
                luck = random.random()
                wait = pause * (0.4 + 1.1 * luck) if slow else scenario.wait * (0.4 + 1.2 * luck) * SECOND
                yield max(2000, int(wait * (1 if slow else world.settings.attacks.pace)))
                if slow and office and person is not None and mode == "same":
                    yield self._wait_for_work(person, 30)
            first = False
            place = step.namespace.format_map(scene) if "{" in step.namespace else step.namespace
            apps = world.by_namespace.get(place) or world.by_namespace[namespace]
            app = random.choice(apps)
            scene["app"] = app.name if len(lines) > len(scenario.lines) or slow else scene["app"]
            scene["pod"] = random.choice(app.pods)[0] if app.pods else f"{app.name}-0"
            before = len(run.ids)
            yield from acting.play(client, [step], scene, ids=run.ids)
            run.end = world.kernel.now
            if len(run.ids) > before and step.verb not in ("discover", "visit"):
                verb, path, code = world.kernel.last
                run.calls.append(f"{_VERBS.get(verb, 'GET')} {path.partition('?')[0]} {code}")
        if scenario.after == "keeps" and person is not None:
            person.clients = [c if c.agent == HELM else client for c in person.clients]
        elif scenario.after == "joins" and person is not None:
            world.kernel.spawn(work(world, person), 60 * SECOND)
        elif scenario.after == "migrates":
            team = world.team_of(namespace)
            migrated = Account(client, "ci-deployer", namespace, team)
            world.kernel.spawn(pipeline(world, migrated, world.settings.machines.pipeline_pace), SECOND)

    def _wait_for_work(self, person: SimulatedPerson, spread: int = 300) -> int:
        """Microseconds until a person works, so that owner and attacker are active together."""
        world = self.world
        now = world.kernel.now
        for later in range(21):
            day = now // DAY + later
            if not at_work(world, person, day):
                continue
            begin, end = person.hours(day)
            if now < end:
                wait = max(1, begin - now) + world.random.randrange(spread * SECOND)
                return wait if now + wait < self._latest else 1
        return 1

    def _next_night(self) -> int:
        """The next Sunday, 23:00."""
        now = self.world.kernel.now
        day = now // DAY
        while (day + 3) % 7 != 6 or day * DAY + 23 * DAY // 24 < now:
            day += 1
            if day > now // DAY + 3 or day * DAY + 23 * DAY // 24 >= self._latest:
                return now + 1
        return day * DAY + 23 * DAY // 24
