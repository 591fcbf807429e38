"""No text of a log, or of a service's answer, reaches a terminal as a control sequence, as markup or as a line of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from data.actions.fields import FIELDS
from data.visible_text import visible
from kubehabit.client.remote import Remote
from kubehabit.main import app
from kubehabit.options import say_json
from kubehabit.tables import demo
from kubehabit.tables.screen import VisibleConsole
from serving.app import create_app
from serving.rollout import score_file
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.kubehabit.test_main import stand_in
from tests.serving.conftest import model_info
from tests.serving.event_stores import body
from tests.serving.fakes import FakeDetector, ndjson, secret_event
from tests.serving.hostile import EVIL, hostile_events
from tests.serving.live import Live

TOKEN = "a-token-of-sixteen-or-more"
#: Commands that print no text of a log: their own sentences, figures, and names that the operator gave.
SILENT = {
    "data simulate": "prints where it wrote what it made up",
    "train": "prints metrics and the registered version; whom it leaves out: tests/training/test_suspects.py",
    "starter": "prints metrics and where its bundle is",
    "retrain": "prints what train does, and figures of the comparison",
    "backtest": "prints counts by day or by the names that its caller gave",
    "tune": "prints settings and their figures",
    "ablate": "prints where its report is",
    "serve": "writes its log as JSON; see tests/serving/telemetry",
    "worker": "writes its log as `serve` does",
    "doctor": "prints settings, paths and versions of the operator's own",
    "test-alert": "prints names of sinks and what their receivers answer, cleaned by the sinks",
    **{
        f"rbac {name}": "see tests/kubehabit/test_rbac.py, whose names are hostile"
        for name in ("check", "report", "role", "whatif", "who-can", "path")
    },
    **{
        f"rules {name}": "see tests/kubehabit/test_rules.py, whose names are hostile"
        for name in ("list", "explain", "test", "import-sigma")
    },
    "backup": "prints folders, sizes and counts",
    "mcp": "speaks JSON-RPC; texts are quoted by kubehabit.assistant.quoting: see test_mcp.py",
    "restore": "prints folders, sizes and counts",
    **{
        f"bundle {name}": "prints names and keys of the operator's own"
        for name in ("keygen", "sign", "verify")
    },
    "privacy erase": "see tests/serving/privacy, which erase a person; it prints counts",
    "privacy report": "prints the name that the operator gave, and counts, as a table",
    "allow add": "prints what the operator gave, through `say`",
    "privacy hold": "prints the name and the reason that the operator gave, through `say`",
    "token create": "prints the token's name, which is checked",
    "token list": "prints the tokens' names, which are checked",
    "token revoke": "prints the token's name, which is checked",
}


def poisoned(answer: Any) -> Any:
    """An answer of a service with hostile text behind each text in it."""
    if isinstance(answer, dict):
        return {key: poisoned(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [poisoned(value) for value in answer]
    return answer + EVIL if isinstance(answer, str) else answer


def assert_visible(output: str) -> None:
    for line in output.split("\n"):
        assert visible(line) == line, f"not visible: {line!r}"
        assert line.strip() != "FORGED"


def _holds(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds(one) for one in (*value, *value.values()))
    if isinstance(value, list):
        return any(map(_holds, value))
    return isinstance(value, str) and "mal\x1b" in value


class Shell:
    """Runs commands against a live service that has had hostile events, and checks what they print."""

    def __init__(self, folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.engine = engine
        self.monkeypatch = monkeypatch
        self.log = folder / "hostile.log"
        self.log.write_bytes(ndjson(hostile_events()) + b"\n{broken " + EVIL.encode() + b"\n")

    def run(self, *words: str, statuses: tuple[int, ...] = (0,), shows: bool = True) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code in statuses, done.output
        assert_visible(done.stdout)
        assert_visible(done.stderr)
        if shows:
            # The sentences of alerts are cleaned of control characters before.
            assert any(escape in done.output for escape in ("\\x1b", "\\u001b", "\\u200b")), done.output
        return done.stdout

    def json(self, *words: str, statuses: tuple[int, ...] = (0,)) -> Any:
        answer = json.loads(self.run(*words, "--json", statuses=statuses))
        assert _holds(answer)
        return answer

    def poison_answers(self) -> None:
        for name in ("get", "post"):
            plain = getattr(Remote, name)

            def hostile(*args: Any, plain: Any = plain, **given: Any) -> Any:
                return poisoned(plain(*args, **given))

            self.monkeypatch.setattr(Remote, name, hostile)

    @property
    def incidents(self) -> list[str]:
        return [one.id for one in self.engine.incidents.page(state="open").incidents]


@pytest.fixture
def shell(engine: Engine, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("KUBEHABIT_TOKEN", TOKEN)
    monkeypatch.setenv("USER", "carol")
    settings = Settings(token=TOKEN, events={"enabled": True, "seal_seconds": 3600, "memory_mb": 256})  # type: ignore[arg-type]
    application = create_app(settings, engine)
    with Live(application) as live:
        url = f"http://127.0.0.1:{live.port}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        httpx.post(f"{url}/v1/score", content=body(hostile_events()), headers=headers).raise_for_status()
        application.state.service.wait_for_events(30)
        engine.flush()
        monkeypatch.setenv("KUBEHABIT_URL", url)
        yield Shell(tmp_path, engine, monkeypatch)


def both(shell: Shell, *words: str) -> None:
    """A command that reads a service or its files, as a table and as JSON."""
    for more in ((), ("--local",)):
        shell.run(*words, *more)
        shell.json(*words, *more)


def alerts(shell: Shell) -> None:
    shell.poison_answers()
    shell.run("alerts")
    shell.json("alerts", "list")


def alert(shell: Shell) -> None:
    shell.poison_answers()
    for one in shell.engine.store.page(limit=10).alerts:
        shell.run("alerts", "show", one.id)
        shell.json("alerts", "show", one.id)


def incident(shell: Shell) -> None:
    shell.poison_answers()
    for identity in shell.incidents:
        shell.run("incidents", "show", identity)
        shell.json("incidents", "show", identity)


def contained(shell: Shell) -> None:
    shell.poison_answers()
    for identity in shell.incidents:
        shell.run("incidents", "containment", identity, statuses=(0, 1, 2), shows=False)


def merged(shell: Shell) -> None:
    first, second, *_ = shell.incidents
    shell.run("incidents", "merge", first, second, "--note", EVIL)


def split(shell: Shell) -> None:
    first, second, *_ = shell.incidents
    merged = json.loads(CliRunner().invoke(app, ["incidents", "merge", first, second, "--json"]).stdout)
    shell.run("incidents", "split", first, "--alert", merged["alerts"][0]["id"], "--note", EVIL)


def events(shell: Shell) -> None:
    for more in ((), ("--local",)):
        shell.run("events", *more)
        for form in ("--json", "--original"):
            lines = shell.run("events", form, *more).splitlines()
            assert any(_holds(json.loads(line)) for line in lines)


def principal(shell: Shell) -> None:
    for more in (("--local",), ("--log", str(shell.log))):
        shell.run("principal", EVIL, *more)
        shell.json("principal", EVIL, *more)
    shell.run("principal", EVIL + "x", "--local", statuses=(2,))
    shell.poison_answers()
    shell.run("principal", "bob@corp")


def evidence(shell: Shell) -> None:
    out = shell.folder / EVIL.replace("/", "")
    shell.run("evidence", "--principal", EVIL, "--since", "2026-01-01", "--out", str(out))


def monthly(shell: Shell) -> None:
    out = shell.folder / EVIL.replace("/", "")
    shell.run("report", "monthly", "--month", "2026-11", "--out", str(out))
    for file in out.iterdir():
        assert_visible(file.read_text(encoding="utf-8"))


def verify(shell: Shell) -> None:
    shell.run("evidence", "--audit-id", "id-7", "--out", str(shell.folder / "out"), shows=False)
    made = next((shell.folder / "out").glob("*.json"))
    changed = made.with_name("changed.json")
    changed.write_bytes(json.dumps(poisoned(json.loads(made.read_bytes()))).encode())
    shell.run("verify", str(changed), statuses=(0, 1, 2), shows=False)


def send(shell: Shell) -> None:
    shell.run("send", str(shell.log), statuses=(0, 1), shows=False)
    shell.monkeypatch.setattr(
        Remote,
        "post_events",
        lambda *_: {
            "counts": {"scored": 0, "folded": 0, "rejected": 1, "flagged": 0},
            "results": [{"status": "rejected", "reason": EVIL}],
        },
    )
    shell.run("send", str(shell.log), statuses=(1,))


def score(shell: Shell) -> None:
    def load(*_: Any, **__: Any) -> Engine:
        store = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
        return Engine(FakeDetector(), FIELDS, model_info(), store, shell.engine.explainer)

    shell.monkeypatch.setattr(score_file, "load_engine", load)
    later = [secret_event(9000 + number, user=EVIL) for number in range(3)]
    shell.log.write_bytes(ndjson(later) + b"\n{broken " + EVIL.encode())
    shell.run("score", str(shell.log), statuses=(0, 1))
    lines = shell.run("score", str(shell.log), "--json", statuses=(0, 1), shows=False).splitlines()
    assert all(map(json.loads, lines))


def model(shell: Shell) -> None:
    shell.poison_answers()
    shell.run("model")
    shell.json("model")
    shell.run("model", "--preview")


def strict_figures() -> dict[str, Any]:
    """Those of an evaluation with one false incident, by a principal with a hostile name."""
    from training.evaluation.alone import figures
    from training.evaluation.strict_replay import FalseIncident, Replayed

    false = FalseIncident(EVIL, "human", 0, 1, 0, "low", EVIL, 1.2, 1.0, 1.0, [EVIL], [EVIL])
    return figures([], [], Replayed([], {}, [false], {"human": 1}, {"human": 1}))


def evaluate(shell: Shell) -> None:
    run = {"scenario": EVIL, "kind": "attack", "class": EVIL, "principal": EVIL, "detected": True}
    figures = {"recall": 1.0, EVIL: 1, "log": EVIL, "runs": [run], "alone": strict_figures()}
    stand_in(shell.monkeypatch, "training.evaluation.evaluate", evaluate=lambda *_, **__: figures)
    shell.run("evaluate", "--log", str(shell.log))
    shell.json("evaluate", "--log", str(shell.log))


def promote(shell: Shell) -> None:
    from training.lifecycle.promotion import GateCheck, PromotionDecision

    check = GateCheck(EVIL, EVIL, EVIL, EVIL, None, "worse")  # type: ignore[call-arg, arg-type]
    values: dict[str, Any] = dict.fromkeys(PromotionDecision.__dataclass_fields__, EVIL)
    values |= {"challenger": "7", "promoted": False, "checks": [check], "reasons": [EVIL], "dry_run": False}
    decision = PromotionDecision(**values)
    shell.monkeypatch.setattr("training.lifecycle.promotion.promote", lambda *_, **__: decision)
    shell.run("promote", "--normal", str(shell.log), statuses=(1,))
    shell.json("promote", "--normal", str(shell.log), statuses=(1,))


def drift(shell: Shell) -> None:
    from training.lifecycle.drift import DriftReport, PrincipalDrift

    one = PrincipalDrift(EVIL, EVIL, 50, 1.0, 2.0, 0.5, 0.1, "changed")
    report = DriftReport(
        EVIL,
        EVIL,
        9,
        {EVIL: (0.0, 0.5)},
        {EVIL: {EVIL: 3}},
        [one],
        {EVIL: 2},
        {EVIL: 1},
        [],
        True,
        [EVIL],
        EVIL,
    )
    shell.monkeypatch.setattr("training.lifecycle.drift.drift", lambda *_, **__: report)
    shell.run("drift", str(shell.log), statuses=(1,))
    shell.json("drift", str(shell.log), statuses=(1,))


def build(shell: Shell) -> None:
    shell.run(
        "data", "build", str(shell.log), "--out", str(shell.folder / "dataset"), shows=False, statuses=(0, 2)
    )


def inspect(shell: Shell) -> None:
    shell.run("data", "inspect", str(shell.log))
    shell.json("data", "inspect", str(shell.log))


def principals(shell: Shell) -> None:
    shell.poison_answers()
    shell.run("principals")
    shell.json("principals")


def play(_: Shell) -> None:
    """The demo's own prints; its other parts are those of other commands."""
    for make in (VisibleConsole, Console):
        printed = io.StringIO()
        console = make(file=printed, width=200)
        for severity in ("low", "critical"):
            seen = {"severity": severity, "sentence": EVIL, "firstSeen": EVIL, "lastSeen": EVIL}
            demo.announce(seen, console, again=severity == "low")
        demo.chapter(console, EVIL, EVIL)
        run = {
            "family": EVIL,
            "principal": EVIL,
            "mode": EVIL,
            "scenario": EVIL,
            "kind": "attack",
            "detected": True,
        }
        console.print(demo._runs([run | {"severity": "high", "actions_to_detection": 1}]))
        assert_visible(printed.getvalue())
        assert "[red]" in printed.getvalue()


def exceptions(shell: Shell) -> None:
    stored = {
        "name": EVIL,
        "reason": EVIL,
        "by": EVIL,
        "principal": EVIL,
        "group": EVIL,
        "expires": EVIL,
        "until": EVIL,
    }
    lists = {"verbs": [EVIL], "resources": [EVIL], "namespaces": [EVIL], "names": [EVIL]}
    answer = {"exceptions": [stored | lists | {"expired": False, "uses": 1, "lastUsed": EVIL}]}
    shell.monkeypatch.setattr("kubehabit.client.remote.Remote.get", lambda *_: answer)
    shell.run("allow", "list")
    shell.json("allow", "list")


def expired_exceptions(shell: Shell) -> None:
    file = shell.folder / "exceptions.yaml"
    entry = {
        "name": "old",
        "principal": "vera",
        "reason": "x" + EVIL,
        "expires": "2020-01-01",
        "verbs": ["list"],
    }
    file.write_text(json.dumps({"exceptions": [entry]}))
    shell.run("allow", "check", "--file", str(file), statuses=(1, 2))


CASES: dict[str, Callable[[Shell], None]] = {
    "allow list": exceptions,
    "allow check": expired_exceptions,
    "demo": play,
    "data build": build,
    "data inspect": inspect,
    "evaluate": evaluate,
    "promote": promote,
    "drift": drift,
    "send": send,
    "score": score,
    "model": model,
    "alerts list": alerts,
    "alerts show": alert,
    "incidents list": lambda shell: (
        shell.poison_answers(),
        shell.run("incidents"),
        shell.json("incidents", "list"),
    ),  # type: ignore[func-returns-value]
    "incidents show": incident,
    "incidents containment": contained,
    "incidents merge": merged,
    "incidents split": split,
    "incidents close": lambda shell: shell.run("incidents", "close", shell.incidents[0], "--note", EVIL),
    "incidents note": lambda shell: shell.run("incidents", "note", shell.incidents[0], EVIL),
    "who touched": lambda shell: both(
        shell, "who", "touched", "secret", "payments/", "--since", "2026-01-01"
    ),
    "who is new in": lambda shell: both(shell, "who", "is", "new", "in", "payments", "--since", "2026-01-01"),
    "events": events,
    "principals": principals,
    "principal": principal,
    "evidence": evidence,
    "report monthly": monthly,
    "verify": verify,
}


def commands(group: Any, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)))
def test_a_command_prints_hostile_text_visibly(command: str, shell: Shell) -> None:
    if command not in SILENT:
        CASES[command](shell)


def test_json_stays_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    text = '{\t"a":\r\n [1, "' + "\u00fc\x7f\u202e\U000e0041\ud800" + '"]}'
    say_json(text)
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(text)
    assert not any(one in printed for one in "\x7f\u202e\U000e0041\ud800")
    assert "\u00fc" in printed


def test_an_error_is_one_visible_line() -> None:
    done = CliRunner().invoke(app, ["alerts", "list", "--url", "http://127.0.0.1:9/\x1b[2J"])
    assert done.exit_code == 2
    assert_visible(done.stderr)


def test_whatever_a_console_of_ours_is_given_it_prints_no_control_sequence() -> None:
    printed = io.StringIO()
    VisibleConsole(file=printed, width=200).print(EVIL.replace("\r\n", ""), SimpleNamespace(name=EVIL))
    assert not any(one in printed.getvalue() for one in "\x1b\x9b\x07\u202e\u200b\U000e0041")
    assert "[red]loud[/red]" in printed.getvalue()
