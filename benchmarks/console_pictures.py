"""Pictures of the console for the docs, from the recorded campaign of attacks (`make screenshots`).

A model is trained on `normal.jsonl.zst` (or named with --model), `labelled.jsonl.zst` is scored with it, and Chromium takes the
pictures into docs/console, and that of a page of evidence into the folder above. For those of habits two weeks of everyday work
come first (`benchmarks.console_weeks`). "How long ago" is counted from five minutes after the recording ended, so pictures of
the same model are the same on any day; but for the overview, which is of the last days by this machine's clock.

Run: python -m benchmarks.console_pictures [--model URI] [--home DIR] [--out DIR]
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from benchmarks.bench_incidents import trained
from benchmarks.chromium import chromium
from benchmarks.console_service import serving
from benchmarks.console_weeks import weeks
from data.events.reader import open_lines
from data.paths import registry_uri, tracking_uri
from serving.app import create_app
from serving.fleet.state_files import open_state
from serving.fleet.status import ClusterStatus, PartitionStatus, write_status
from serving.incidents.report import Incident
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.schemas import SEVERITIES
from serving.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
LABELLED = ROOT / "data" / "recordings" / "labelled.jsonl.zst"
#: Bytes of one picture.
MOST = 150_000
_WIDE, _PHONE = (1280, 860), (390, 844)
_BATCH = 500
#: Events that show how rights are used.
_USE = 20_000
_COLOURS = 256


def fullest(incidents: list[Incident]) -> Incident:
    """The incident that shows most of what the page can tell: several credentials, ties between them, few enough objects."""
    return max(
        incidents,
        key=lambda incident: (
            len(incident.principals) > 1,
            bool(incident.consequences),
            sum(tie.confidence != "possible" for tie in incident.links),
            -len(incident.graph.nodes),
        ),
    )


def simplest(incidents: list[Incident]) -> Incident:
    """The most severe incident that is a single action which set something off: what docs/walkthrough.md walks through."""
    return max(
        incidents,
        key=lambda incident: (
            incident.action_count == 1,
            bool(incident.consequences),
            SEVERITIES.index(incident.severity or "none"),
        ),
    )


def save(picture: bytes, path: Path) -> int:
    """Write a picture, with fewer colours if all of them take too much room; its size."""
    with Image.open(io.BytesIO(picture)) as image:
        plain = image.convert("RGB")
        plain.save(path, optimize=True)
        if path.stat().st_size > MOST:
            plain.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST:
        raise SystemExit(f"{path} has {size:,} bytes, more than {MOST:,}: take a smaller part of the page.")
    return size


class Camera:
    """Takes pictures of a running console.

    Args:
        browser: of `chromium`.
        url: of the service.
        now: the moment that "how long ago" is computed from.
        out: folder of the pictures.
    """

    def __init__(self, browser: Any, url: str, now: datetime, out: Path) -> None:
        self._browser, self._url, self._now, self._out = browser, url, now, out

    def take(
        self,
        name: str,
        path: str,
        *,
        theme: str = "light",
        size: tuple[int, int] = _WIDE,
        at: str = "",
        hover: str = "",
    ) -> None:
        """One picture.

        Args:
            name: of the file.
            path: of the page.
            theme: light or dark.
            size: of the window.
            at: the element that stands at the top; "" for the top of the page.
            hover: the element that the pointer is on.
        """
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=theme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.clock.set_fixed_time(self._now)
        page.goto(self._url + path, wait_until="load")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        if at:
            page.evaluate("(at) => document.querySelector(at).scrollIntoView()", at)
        if hover:
            page.locator(hover).first.hover()
        page.wait_for_timeout(400)
        self._keep(page, self._out / f"{name}.png", path)
        context.close()

    def take_evidence(self, name: str, incident: str) -> None:
        """One picture of the page that an incident is exported as, in the folder above; it has no look but its own."""
        import httpx

        path = f"/v1/incidents/{incident}/evidence?form=html"
        answer = httpx.post(self._url + path, json={"note": "Case 2026-117"}, trust_env=False, timeout=60)
        context = self._browser.new_context(viewport={"width": 1000, "height": 930})
        page = context.new_page()
        page.set_content(answer.raise_for_status().text)
        self._keep(page, self._out.parent / f"{name}.png", path)
        context.close()

    def _keep(self, page: Any, file: Path, path: str) -> None:
        print(f"{file.name}  {save(page.screenshot(), file) / 1000:,.0f} kB  {path}", flush=True)


def take_campaign(model: str, out: Path) -> str:
    """Score the campaign through the running service, and take pictures of what was found; returns with whom it began."""
    settings = load_settings()
    engine = load_engine(settings, parse_model(model))
    app = create_app(settings, engine)
    out.mkdir(parents=True, exist_ok=True)
    with serving(app) as url, chromium() as browser:
        _send(url)
        engine.flush()
        engine_incidents = [
            incident
            for one in engine.incidents.page(state="open", limit=200).incidents
            if (incident := engine.incidents.get(one.id)) is not None and incident.alerts
        ]
        best = fullest(engine_incidents)
        assert best.source is not None
        alert = next(one for one in best.alerts if one.principal == best.source.principal)
        now = max(incident.last_seen for incident in engine_incidents if incident.last_seen) + timedelta(
            minutes=5
        )
        camera = Camera(browser, url, now, out)
        app.state.service.wait_for_events(60)
        camera.take("overview", "/console/?days=28", size=(1280, 1180))
        camera.take("alerts", "/console/alerts")
        camera.take("event", f"/console/event?auditID={best.source.audit_id}", size=(1280, 1000))
        camera.take("alerts-dark", "/console/alerts?severity=high", theme="dark")
        camera.take("alert", f"/console/alerts/{alert.id}", size=(1280, 1180))
        camera.take("word", f"/console/alerts/{alert.id}", size=(1280, 420), hover="h1 .term")
        camera.take("incident", f"/console/incidents/{best.id}", size=(1280, 1100))
        camera.take(
            "timeline",
            f"/console/incidents/{best.id}",
            theme="dark",
            size=(1280, 1000),
            at="section[aria-labelledby=timeline]",
        )
        camera.take_evidence("evidence", simplest(engine_incidents).id)
        camera.take("phone", f"/console/alerts/{alert.id}", size=_PHONE, theme="dark")
        camera.take("phone-overview", "/console/?days=28", size=_PHONE)
        service = app.state.service
        if service.watch is not None:  # a model from a folder has no versions
            service.versions.known()
            service.versions.wait(120)
            camera.take("versions", "/console/model/versions", size=(1280, 1000))
    return best.source.principal


def take_habits(model: str, out: Path, principal: str) -> None:
    """Pictures of the pages that tell of weeks: two of everyday work come before the campaign (`benchmarks.console_weeks`)."""
    settings = load_settings()
    engine = load_engine(settings, parse_model(model))
    app = create_app(settings, engine)
    with serving(app) as url, chromium() as browser:
        _post(url, chain.from_iterable(weeks()))
        _send(url)
        engine.flush()
        app.state.service.wait_for_events(60)
        latest = max(alert.last_seen for alert in engine.store.page(limit=100).alerts)
        camera = Camera(browser, url, latest + timedelta(minutes=5), out)
        camera.take("principal", f"/console/principals/{principal}?days=all&step=days", size=(1280, 1560))
        camera.take("principals", "/console/principals")
        camera.take("model", "/console/model?days=14&per_day=1", size=(1280, 1180))
        asked = {"ask": "touched", "resource": "secret", "namespace": "payments", "since": "520w"}
        camera.take("search", "/console/search?" + urlencode(asked))


def take_rights(model: str, out: Path) -> None:
    """Pictures of the pages about rights and rules, after the first part of the campaign, with the roles of its cluster."""
    os.environ["KUBEHABIT_AUTHORIZATION__SNAPSHOT"] = str(LABELLED.with_name("rbac.json.gz"))
    settings = load_settings()
    del os.environ["KUBEHABIT_AUTHORIZATION__SNAPSHOT"]
    engine = load_engine(settings, parse_model(model))
    app = create_app(settings, engine)
    with serving(app) as url, chromium() as browser:
        _post(url, islice(open_lines(LABELLED), _USE))
        engine.flush()
        app.state.service.wait_for_events(60)
        latest = max(alert.last_seen for alert in engine.store.page(limit=100).alerts)
        camera = Camera(browser, url, latest + timedelta(minutes=5), out)
        camera.take("rights", "/console/rights?days=all", size=(1280, 1000))
        subject = "/console/rights/subject?" + urlencode({"group": "corp:devs", "days": "all"})
        camera.take("rights-reach", subject, size=(1280, 1180))
        camera.take("phone-rights", subject, size=_PHONE, theme="dark")
        camera.take("rules", "/console/rules?days=90", size=(1280, 1000))
        camera.take(
            "rule", "/console/rules/node-proxy-beyond-metrics?days=90", theme="dark", size=(1280, 1180)
        )


def take_fleet(model: str, out: Path) -> None:
    """Pictures of the page of the fleet: five clusters as two workers could report them."""
    os.environ["KUBEHABIT_CONSOLE__CLUSTER_URL"] = "https://kubehabit-{cluster}.example/console/"
    settings = load_settings()
    del os.environ["KUBEHABIT_CONSOLE__CLUSTER_URL"]
    files, now = open_state(settings.worker.state_url), datetime.now(UTC)
    moment = now.timestamp()

    def cluster(name: str, rate: float, known: int, newest: float = 2, **incidents: int) -> ClusterStatus:
        return ClusterStatus(
            name,
            moment,
            rate,
            moment - newest,
            100_000,
            known * 1000,
            incidents,
            sum(incidents.values()) // 2,
        )

    steady = [
        cluster("prod-eu", 412.6, 97, critical=1, high=2, low=4),
        cluster("prod-us", 388.1, 96, medium=1),
    ]
    for number, lag, trouble, clusters in (
        (0, 118, "", steady),
        (1, 0, "", [cluster("staging", 31.4, 91, low=2)]),
        (
            2,
            1_204,
            "The alert store cannot be written: the database server is shutting down.",
            [cluster("shop", 0, 94, 95)],
        ),
        (3, 0, "", [cluster("lab", 0, 62, 1260)]),
    ):
        written = moment - 1260 if number == 3 else moment
        worker = f"kubehabit-worker-{number % 2}:1"
        write_status(
            files, PartitionStatus("audit", number, worker, written, "kubehabit 7", lag, trouble, clusters)
        )
    app = create_app(settings, load_engine(settings, parse_model(model)))
    with serving(app) as url, chromium() as browser:
        camera = Camera(browser, url, now, out)
        camera.take("fleet", "/console/fleet")
        camera.take("phone-fleet", "/console/fleet", size=_PHONE, theme="dark")


def _send(url: str) -> None:
    """The campaign."""
    _post(url, open_lines(LABELLED))


def _post(url: str, lines: Iterable[bytes]) -> None:
    import httpx

    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        left = iter(lines)
        while batch := list(islice(left, _BATCH)):
            client.post("/v1/score", content=b"\n".join(batch)).raise_for_status()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", help="a registered model or the folder of a bundle, instead of training one"
    )
    parser.add_argument("--home", type=Path, help="keep the trained model in this empty folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "console", help="folder of the pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or trained(options.home or Path(folder) / "trained")
        # The model stays where it is when the home is another one.
        os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_REGISTRY_URI"] = tracking_uri(), registry_uri()
        os.environ["KUBEHABIT_HOME"] = str(Path(folder) / "campaign")
        source = take_campaign(model, options.out)
        os.environ["KUBEHABIT_HOME"] = str(Path(folder) / "weeks")
        take_habits(model, options.out, source)
        os.environ["KUBEHABIT_HOME"] = str(Path(folder) / "rights")
        take_rights(model, options.out)
        os.environ["KUBEHABIT_HOME"] = str(Path(folder) / "fleet")
        take_fleet(model, options.out)


if __name__ == "__main__":
    main()
