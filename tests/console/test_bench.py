"""The benchmark of the console opens every page that it names, and its store is one that the console can show."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.bench_console import MOST_SECONDS, measure
from benchmarks.console_pictures import MOST, save
from serving.console.render import NAVIGATION
from tests.console.browser import needs_chromium


@pytest.mark.slow
@needs_chromium
def test_every_page_of_the_benchmark_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path))
    with ThreadPoolExecutor(1) as elsewhere:  # where no other test has a browser
        rows = {row.name: row for row in elsewhere.submit(measure, 30, 300, 1, tmp_path).result()}
    assert rows["alerts in the store"].value == 30
    timed = [row for row in rows.values() if row.bar]
    assert {row.bar for row in timed} == {f"<= {MOST_SECONDS:g}"}
    assert all(row.value > 0 for row in timed)
    assert {f"{place.name.lower()}: loaded, median of 1" for place in NAVIGATION} < rows.keys()


def test_a_picture_that_takes_too_much_room_gets_fewer_colours(tmp_path: Path) -> None:
    import io

    noise = [Image.effect_noise((300, 250), 90) for _ in range(3)]
    picture = Image.merge("RGB", noise)
    content = io.BytesIO()
    picture.save(content, "PNG")
    assert len(content.getvalue()) > MOST
    save(content.getvalue(), tmp_path / "much.png")
    with Image.open(tmp_path / "much.png") as saved:
        assert saved.mode == "P"
    plain = io.BytesIO()
    Image.new("RGB", (900, 700), "red").save(plain, "PNG")
    save(plain.getvalue(), tmp_path / "little.png")
    with Image.open(tmp_path / "little.png") as saved:
        assert saved.mode == "RGB"
