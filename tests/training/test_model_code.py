"""A registered model carries its code under a private name, and models registered before it did still load."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
import pytest

from data.events.reader import open_lines
from data.paths import tracking_uri
from detection.bundle import Bundle
from detection.pyfunc import AuditModel
from tests.conftest import RECORDINGS, ROOT, Trained
from tests.deploy.served import free_port
from training.model_code import pack
from training.registry import connected

EVENTS = [line.decode() for line in islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 9_700, 9_900)]
#: In two pieces: the name stays what it was then, wherever the module is now.
LOADER_BEFORE = ".".join(("data", "pyfunc"))
ROOMS = ("configs", "data", "detection", "serving", "training")
PREDICT = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
checkout, model, events = sys.argv[1:]
sys.path = [place for place in sys.path if Path(place).resolve() != Path(checkout)]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
{before}
import mlflow.pyfunc, pandas
rows = mlflow.pyfunc.load_model(model).predict(pandas.DataFrame({{"event": json.loads(Path(events).read_text())}}))
files = {{name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}}
print(json.dumps([rows, files]))
"""


@pytest.fixture(scope="module")
def registered(trained: Trained) -> Path:
    """Folder of the version that today's code registered."""
    with connected():
        return Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/kubehabit@champion"))


def predict(model: Path, folder: Path, before: str = "") -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What the model says of EVENTS in a process of its own, far from the checkout, and the modules it imported."""
    events = folder / "events.json"
    events.write_text(json.dumps([*EVENTS, "{broken"]))
    command = [sys.executable, "-c", PREDICT.format(before=before), str(ROOT), str(model), str(events)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    rows, files = json.loads(done.stdout.splitlines()[-1])
    return rows, files


def ours(bundle: Path) -> list[dict[str, Any]]:
    """What today's code says of the same events."""
    return AuditModel(Bundle.load(bundle)).predict({"event": [*EVENTS, "{broken"]})


def test_the_model_brings_one_package_with_the_modules_it_needs_and_no_others(registered: Path) -> None:
    (package,) = (registered / "code").iterdir()
    assert package.name.startswith("kubehabit_model_")
    carried = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {"detection/pyfunc.py", "detection/bundle.py", "configs/actions.yaml"} <= carried
    assert not [
        name for name in carried if name.startswith(("data/simulat", "data/dataset", "data/recordings"))
    ]
    loader = mlflow.models.Model.load(str(registered)).flavors["python_function"]["loader_module"]
    assert loader == f"{package.name}.{AuditModel.__module__}"


def test_it_loads_where_our_names_belong_to_others(
    registered: Path, trained: Trained, tmp_path: Path
) -> None:
    for name in ROOMS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    mine = f"sys.path.insert(0, {str(tmp_path)!r}); import data, training; from data import MINE"
    rows, files = predict(registered, tmp_path, before=mine)
    assert rows == ours(trained.bundle)
    assert files["data"] == str(tmp_path / "data" / "__init__.py")
    assert files["training"] == str(tmp_path / "training" / "__init__.py")
    assert not [name for name in files if name.startswith(tuple(f"{room}." for room in ROOMS))]


def test_a_model_registered_before_loads_with_the_code_that_it_carries(
    registered_before: Path, tmp_path: Path
) -> None:
    rows, files = predict(registered_before, tmp_path)
    assert Path(files[LOADER_BEFORE]).is_relative_to(registered_before)
    assert rows == ours(registered_before / "data" / "bundle")


def test_a_model_registered_before_loads_where_our_rooms_are_imported(
    registered_before: Path, tmp_path: Path
) -> None:
    here = f"sys.path.insert(0, {str(ROOT)!r}); import data, training"
    rows, files = predict(registered_before, tmp_path, before=here)
    assert Path(files[LOADER_BEFORE]).is_relative_to(ROOT)
    assert rows == ours(registered_before / "data" / "bundle")


# -- the copy ---------------------------------------------------------------------------------------------------


def room(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_every_way_to_import_is_followed_and_renamed(tmp_path: Path) -> None:
    root = room(
        tmp_path / "tree",
        configs__init="",
        data__init="",
        data__unused="UNUSED = 1\n",
        data__middle="import os, data.clock as t\nfrom data.clock import (\n    NOW,  # é\n)\nX = t.NOW\n",
        data__clock="NOW = 1\n",
        data__deep__init="from .leaf import LEAF\nfrom .. import clock\n",
        data__deep__leaf="LEAF = 3\n",
        detection__init="",
        detection__entry="""
from typing import TYPE_CHECKING
import data.deep
from data import middle
if TYPE_CHECKING:
    from data.unused import UNUSED
def read():
    from importlib.resources import files
    é = 1; from data.clock import NOW
    return data.deep.LEAF + middle.X + NOW, files("configs").joinpath("a.yaml").read_text()
""",
    )
    for package in ("configs", "data", "data/deep", "detection"):
        (root / package / "init.py").rename(root / package / "__init__.py")
    (root / "configs" / "a.yaml").write_text("a: 1\n")
    name, package = pack("detection.entry", root, tmp_path / "copy")
    carried = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert carried == {
        *("__init__.py", "configs/__init__.py", "configs/a.yaml", "data/__init__.py"),
        *("data/clock.py", "data/middle.py", "data/deep/__init__.py", "data/deep/leaf.py"),
        *("detection/__init__.py", "detection/entry.py"),
    }
    code = f"import sys, {name} as m; print(m.read(), sorted(set(sys.modules) & {{'data', 'configs', 'detection'}}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "copy")
    assert done.stdout == "(5, 'a: 1\\n') []\n", done.stderr


def test_the_package_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    root = room(tmp_path / "tree", data__entry="from data import leaf\n", data__leaf="LEAF = 1\n")
    (root / "data" / "__init__.py").touch()
    first, _ = pack("data.entry", root, tmp_path / "first")
    again, _ = pack("data.entry", root, tmp_path / "again")
    (root / "data" / "leaf.py").write_text("LEAF = 2\n")
    changed, _ = pack("data.entry", root, tmp_path / "changed")
    assert first == again != changed


def test_what_is_carried_is_python_and_names_none_of_our_rooms(tmp_path: Path) -> None:
    _, package = pack(AuditModel.__module__, ROOT, tmp_path)
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            named = node.module or "" if isinstance(node, ast.ImportFrom) and not node.level else ""
            assert named.split(".")[0] not in ROOMS, path


# -- MLflow's own scoring server ---------------------------------------------------------------------------------


@contextmanager
def scoring_server(model: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve` on loopback; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--model-uri", model]
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PATH": search, "MLFLOW_TRACKING_URI": tracking_uri()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/ping", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_mlflow_serves_the_registered_version_with_our_numbers(trained: Trained, tmp_path: Path) -> None:
    sent = {"dataframe_records": [{"event": text} for text in [*EVENTS, "{broken"]]}
    with scoring_server("models:/kubehabit@champion", tmp_path) as url:
        request = urllib.request.Request(
            f"{url}/invocations", json.dumps(sent).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
    assert rows == ours(trained.bundle)
