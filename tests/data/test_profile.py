"""The profile of a principal: what it does, counted exactly, told in a screen and on a page that loads nothing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.profile import gather, rarest, top
from data.profile_page import render
from kubehabit import app
from tests.data.samples import event

NAME = "dev-1@example.com"


def logged(number: int, who: str = NAME, **changes: object) -> bytes:
    stamp = f"2026-01-05T09:{number // 60:02d}:{number % 60:02d}.000000Z"
    groups = ["dev:web", "system:authenticated"]
    return event(
        auditID=f"id-{number:04d}",
        requestURI=f"/x/{number}",
        requestReceivedTimestamp=stamp,
        user={"username": who, "groups": groups},
        **changes,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Twenty reads of pods, one refused read of a secret, and somebody else of the same group."""
    secret = {"resource": "secrets", "namespace": "pay", "name": "db"}
    lines = [logged(i) for i in range(20)]
    lines.append(logged(30, objectRef=secret, responseStatus={"code": 403}))
    lines += [logged(40 + i, who="dev-2@example.com") for i in range(3)]
    lines.append(b"{broken")
    path = tmp_path / "audit.log"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_what_it_did_is_counted_with_the_last_event_as_evidence(log: Path) -> None:
    found = gather([log], NAME)
    assert found.actions == 21
    (most, seen), (refused, _) = top(found.deeds, 2)
    assert (most, seen.count, seen.audit_id) == (("get", "pods", "web"), 20, "id-0019")
    assert refused == ("get", "secrets", "pay")
    assert found.refusals["403", "get", "secrets", "pay"].count == 1
    assert found.gaps == {"<10s": 19, "<1m": 1}
    assert found.next["get", "pods"] == {("get", "pods"): 19, ("get", "secrets"): 1}
    assert [deed for deed, _ in rarest(found.deeds, 3)] == [("get", "secrets", "pay")]


def test_it_says_who_its_peers_are_and_what_they_do_as_well(log: Path) -> None:
    found = gather([log], NAME)
    assert found.peers == ["dev-2@example.com"]
    assert found.reason == "is in the group dev:web, as are dev-2@example.com"
    assert found.peers_do == {("get", "pods", "web"): 1, ("get", "secrets", "pay"): 0}


def test_one_screen_tells_the_most_of_it(log: Path) -> None:
    said = gather([log], NAME).describe()
    assert max(map(len, said.splitlines())) <= 80
    for words in ("get pods in web", "403", "kubectl/1.30", "10.1.2.3", "group:dev:web"):
        assert words in said


def test_sessions_of_one_role_are_one_profile(tmp_path: Path) -> None:
    role = "arn:aws:sts::1:assumed-role/Dev/"
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(logged(i, who=f"{role}session-{i}") for i in range(5)))
    by_role, by_session = gather([path], "arn:aws:iam::1:role/Dev"), gather([path], f"{role}session-3")
    assert by_role.actions == by_session.actions == 5
    assert len(by_role.usernames) == 5


def test_what_controllers_did_for_it_is_told(normal_lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(normal_lines))
    found = gather([path], "system:serviceaccount:payments:ci-deployer")
    assert any(who.endswith(":replicaset-controller") for who, *_ in found.behind)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [("dev-1", "Did you mean dev-1@example.com?"), ("zebra", "holds 2 others")],
)
def test_nobody_of_that_name_is_a_sentence(log: Path, wanted: str, sentence: str) -> None:
    with pytest.raises(KubehabitError, match=re.escape(sentence)):
        gather([log], wanted)


def test_a_log_without_events_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"hello\n")
    with pytest.raises(KubehabitError, match="No audit event found"):
        gather([path], NAME)


class Tags(HTMLParser):
    """Collects tags and attributes, and whether every tag is closed."""

    VOID = frozenset(("meta", "line", "rect", "br"))

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_runs_nothing(log: Path) -> None:
    page = render(gather([log], NAME), ["audit.log"])
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & set(tags.tags)
    assert not [value for name, value in tags.attributes if name in ("href", "src") or name.startswith("on")]
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page


def test_a_name_that_is_markup_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    evil = '<img src=x onerror=alert(1)>"'
    thing = {"resource": "pods", "namespace": evil, "name": evil}
    path.write_bytes(b"\n".join(logged(i, who=evil, userAgent=evil, objectRef=thing) for i in range(3)))
    page = render(gather([path], evil), [evil])
    tags = Tags()
    tags.feed(page)
    assert "img" not in tags.tags
    assert evil not in page


def test_the_command_writes_a_page_and_prints_the_summary(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "dev.html"
    done = CliRunner().invoke(app, ["data", "profile", str(log), "--principal", NAME, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "21 actions" in done.output
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
