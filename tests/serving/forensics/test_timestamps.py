"""Time stamps: asked of a real authority (openssl) on loopback, kept in the ledger and in evidence, and checked without it."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from kubehabit.main import app
from serving.forensics import clock
from serving.forensics.evidence.export import Export, Subject, check, export
from serving.forensics.evidence.page import check_page, render
from serving.forensics.ledger import Head, Ledger
from serving.forensics.queries import EventQueries
from serving.forensics.timestamps import (
    LedgerClock,
    TimestampAuthority,
    TimestampError,
    check_stamp,
    load_roots,
)
from serving.forensics.verify import verify
from serving.settings import TimestampSettings
from tests.serving.event_stores import body, new_store, story

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is the authority")

HEAD = Head(3, "ab" * 32)
CONFIG = """
[tsa]
default_tsa = one
[one]
serial = {folder}/serial
signer_cert = {folder}/{who}.pem
signer_key = {folder}/{who}.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


def openssl(*words: object, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, words)], input=given, capture_output=True, check=True).stdout


class Authority:
    """A time-stamp authority with a root of its own; `spoil` changes its answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.ca = folder / "ca.pem"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl(
            *("req", "-x509", *key, "-keyout", folder / "ca.key", "-out", self.ca, "-subj", "/CN=Root"),
            *("-days", 3650, "-addext", "basicConstraints=critical,CA:TRUE"),
        )
        openssl(
            *("req", "-x509", *key, "-keyout", folder / "tsa.key", "-out", folder / "tsa.pem"),
            *("-CA", self.ca, "-CAkey", folder / "ca.key", "-days", 3650, "-subj", "/O=Example/CN=Stamps"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *(
                "-addext",
                "extendedKeyUsage=critical,timeStamping",
                "-addext",
                "keyUsage=critical,digitalSignature",
            ),
        )
        (folder / "serial").write_text("01")
        (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder, who="tsa"))
        self.asked = 0
        self.spoil: Callable[[bytes], bytes] = bytes
        self.url = ""

    def answer(self, request: bytes) -> bytes:
        """The answer to a request, by `openssl ts`."""
        self.asked += 1
        (self.folder / "request.tsq").write_bytes(request)
        made = openssl(
            *("ts", "-reply", "-config", self.folder / "tsa.cnf", "-queryfile", self.folder / "request.tsq")
        )
        return self.spoil(made)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    folder = tmp_path_factory.mktemp("authorities")
    return Authority(folder / "ours"), Authority(folder / "other")


@pytest.fixture
def authority(two: tuple[Authority, Authority]) -> Iterator[Authority]:
    """Ours, on loopback."""
    ours = two[0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            answer = ours.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    ours.url, ours.asked, ours.spoil = f"http://127.0.0.1:{server.server_port}/tsa", 0, bytes
    yield ours
    server.shutdown()
    server.server_close()


def client(authority: Authority, *, ca: bool = True) -> TimestampAuthority:
    return TimestampAuthority(TimestampSettings(url=authority.url, ca=authority.ca if ca else None))


def test_a_stamp_is_checked_without_the_authority_and_only_for_what_it_is_over(
    authority: Authority, two: tuple[Authority, Authority]
) -> None:
    stamp = client(authority).stamp(HEAD)
    roots = load_roots(authority.ca)
    checked = check_stamp(stamp, HEAD, roots)
    assert checked.is_trusted
    assert checked.authority in ("CN=Stamps,O=Example", "O=Example,CN=Stamps")
    assert abs(datetime.now(UTC) - checked.time) < timedelta(minutes=1)
    assert not check_stamp(stamp, HEAD, None).is_trusted
    for other in (None, roots):
        with pytest.raises(TimestampError, match="over something else"):
            check_stamp(stamp, Head(4, HEAD.hash), other)
    with pytest.raises(TimestampError, match="does not hold"):
        check_stamp(stamp, HEAD, load_roots(two[1].ca))
    with pytest.raises(TimestampError):
        check_stamp("bm8gc3RhbXA=", HEAD, roots)
    assert authority.asked == 1


def test_an_answer_that_is_none_of_ours_is_not_kept(
    authority: Authority, two: tuple[Authority, Authority]
) -> None:
    old = authority.answer(openssl("ts", "-query", "-data", authority.ca, "-sha256", "-cert"))
    for spoil, words in (
        (lambda _: old, "another request"),
        (lambda made: made[: len(made) // 2], "no time stamp"),
        (lambda made: made.replace(b"Stamps", b"Stamqs"), "does not hold|no time stamp"),
        (lambda _: b"<html>sign in</html>", "no time stamp"),
    ):
        authority.spoil = spoil
        with pytest.raises(TimestampError, match=words):
            client(authority).stamp(HEAD)
    authority.spoil = bytes
    foreign = TimestampSettings(url=authority.url, ca=two[1].ca)
    with pytest.raises(TimestampError, match="does not hold"):
        TimestampAuthority(foreign).stamp(HEAD)


def test_evidence_and_ledger_carry_stamps_that_verify_checks(
    authority: Authority, two: tuple[Authority, Authority], tmp_path: Path
) -> None:
    folder, file = tmp_path / "store", tmp_path / "evidence.json"
    store = new_store(folder)
    store.append(body(story()))
    store.close()
    queries = EventQueries(folder)
    subject = Subject(audit_ids=("id-30", "id-31"))
    file.write_bytes(export(queries, Ledger(folder), subject, by="kim", stamper=client(authority).stamp))
    roots = load_roots(authority.ca)
    checked = check(file, authorities=roots)
    assert checked.findings == []
    assert "its signature is that of the authority" in checked.stamped
    assert "was not checked" in check(file).stamped
    assert check(file, authorities=load_roots(two[1].ca)).findings
    page = tmp_path / "evidence.html"
    page.write_text(render(file.read_bytes()))
    assert (check(page, authorities=roots).findings, list(check_page(page))) == ([], [])
    shown = CliRunner().invoke(app, ["verify", str(file), "--tsa-ca", str(authority.ca)])
    assert shown.exit_code == 0
    assert "Time-stamped" in shown.output

    report = verify(folder, roots=roots)
    assert (report.is_sound, report.stamps) == (True, 1)
    assert [one.kind for one in verify(folder, roots=load_roots(two[1].ca)).findings] == ["signature"]

    bare = tmp_path / "bare.json"
    bare.write_bytes(export(queries, Ledger(folder), subject, by="kim"))
    queries.close()
    assert check(bare).findings == []
    assert check(bare, authorities=roots).findings == ["The file has no time stamp."]
    moved = msgspec.json.decode(bare.read_bytes(), type=Export)
    stamp = msgspec.json.decode(file.read_bytes(), type=Export).stamp
    bare.write_bytes(msgspec.json.encode(msgspec.structs.replace(moved, stamp=stamp)))
    assert any("over something else" in one for one in check(bare).findings)


def test_the_ledger_is_stamped_again_only_after_it_grew_and_a_day_later(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    ledger = Ledger(tmp_path)
    stamping = LedgerClock(ledger, client(authority).stamp, timedelta(days=1))
    stamping.step()
    ledger.append("opened")
    for after, grows, asked in ((0, 0, 1), (25, 0, 1), (25, 1, 2), (26, 1, 2), (60, 0, 3), (90, 0, 3)):
        monkeypatch.setattr(clock, "now", lambda after=after: now + after * 3_600_000_000)
        for _ in range(grows):
            ledger.append("lost", records=0)
        stamping.step()
        assert authority.asked == asked, (after, grows)
    kinds = [entry.fields["kind"] for entry in ledger.entries]
    assert kinds == ["opened", "stamped", "lost", "stamped", "lost", "stamped"]


def test_an_authority_that_is_away_stops_no_export_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path / "store")
    store.append(body(story()))
    store.close()
    away = TimestampAuthority(TimestampSettings(url="http://127.0.0.1:9/tsa", timeout_seconds=0.5))
    queries = EventQueries(tmp_path / "store")
    made = export(
        queries, Ledger(tmp_path / "store"), Subject(audit_ids=("id-30",)), by="kim", stamper=away.stamp
    )
    queries.close()
    assert msgspec.json.decode(made, type=Export).stamp == ""
    assert b'"stamp"' not in made
    assert "was not time-stamped" in caplog.text


def test_what_is_no_address_and_what_is_no_certificate_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="http://"):
        TimestampSettings(url="ftp://tsa.example")
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(TimestampError, match="holds no certificates"):
        load_roots(tmp_path / "ca.pem")
