"""A bundle of another machine: signed or not, nothing in it is unpickled, reaches outside its folder or exhausts memory."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from data.actions.attributes import ATTRIBUTES
from data.errors import BundleError
from data.events.decode import decode_lines
from detection import bundle as bundles
from detection.bundle import CHECKSUMS, FILES, OPTIONAL, SIGNATURE, Bundle, seal, sign, verify_signature
from detection.detector import Detector
from serving.rollout.loader import load_engine
from serving.settings import Settings
from tests.data.samples import event

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_signed_bundle_is_known_by_its_key_and_by_no_other(copied: Path) -> None:
    key = Ed25519PrivateKey.generate()
    sign(copied, key)
    verify_signature(copied, key.public_key())
    assert Bundle.load(copied).checksum
    with pytest.raises(BundleError, match="signed with another key"):
        verify_signature(copied, Ed25519PrivateKey.generate().public_key())


def test_a_bundle_that_was_changed_and_sealed_again_has_lost_its_signature(copied: Path) -> None:
    key = Ed25519PrivateKey.generate()
    sign(copied, key)
    (copied / "card.md").write_text("# Another model\n")
    seal(copied)
    assert Bundle.load(copied), "its checksums are right"
    with pytest.raises(BundleError, match="changed after it was signed"):
        verify_signature(copied, key.public_key())


@pytest.mark.parametrize(
    ("attributes", "opens"), [(16, True), (15, True), (14, True), (13, False), (0, False)]
)
def test_a_bundle_of_before_some_attributes_is_opened_as_it_is(
    copied: Path, attributes: int, opens: bool
) -> None:
    meta = json.loads((copied / "bundle.json").read_text())
    meta["attributes"] = meta["attributes"][:attributes]
    calibration = json.loads((copied / "calibration.json").read_text())
    rarity = calibration["rarity"]
    rarity["shape"][2] = attributes
    rarity["hits"] = [hit for hit in rarity["hits"] if hit[2] < attributes]
    for one in rarity["own"]:
        one[3] = [hit for hit in one[3] if hit[0] < attributes]
    for name, content in (("bundle.json", meta), ("calibration.json", calibration)):
        (copied / name).write_text(json.dumps(content))
    seal(copied)
    if not opens:
        with pytest.raises(BundleError, match="another version of kubehabit"):
            Bundle.load(copied)
        return
    bundle = Bundle.load(copied)
    scores = Detector(bundle).score(decode_lines([event(user={"username": "mallory", "groups": []})]).events)
    assert bundle.attributes == attributes
    assert not {one.attribute for one in scores.novelties.get(0, ())} & set(list(ATTRIBUTES)[attributes:])
    assert scores.novelty[0] > 0


@pytest.mark.parametrize("signature", [b"", b"short", bytes(64), b"x" * 4096])
def test_a_damaged_signature_is_no_signature(copied: Path, signature: bytes) -> None:
    (copied / SIGNATURE).write_bytes(signature)
    with pytest.raises(BundleError, match="not by the key"):
        verify_signature(copied, Ed25519PrivateKey.generate().public_key())


def test_the_service_serves_only_what_its_key_has_signed(copied: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = tmp_path / "public.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = Settings(model={"public_key": public})
    with pytest.raises(BundleError, match="is not signed"):
        load_engine(settings, copied, store_url="sqlite://")
    sign(copied, Ed25519PrivateKey.generate())
    with pytest.raises(BundleError, match="not by the key in model"):
        load_engine(settings, copied, store_url="sqlite://")
    sign(copied, key)
    load_engine(settings, copied, store_url="sqlite://").close()


def test_its_graphs_hold_their_data_themselves(tiny_bundle: Path) -> None:
    for graph in tiny_bundle.glob("*.onnx"):
        model = onnx.load(graph, load_external_data=False)
        assert all(one.data_location == onnx.TensorProto.DEFAULT for one in model.graph.initializer)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin"])
def test_a_graph_that_keeps_its_data_elsewhere_is_refused(copied: Path, location: str) -> None:
    model = onnx.load(copied / "model.onnx")
    tensor = next(one for one in model.graph.initializer if one.raw_data)
    (copied / location).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (copied / "model.onnx").write_bytes(model.SerializeToString())
    seal(copied)
    with pytest.raises(BundleError, match="external data"):
        Bundle.load(copied)


def test_its_arrays_are_plain(tiny_bundle: Path) -> None:
    for path in (*tiny_bundle.glob("*.npy"), *tiny_bundle.glob("*.npz")):
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]
        assert all(not array.dtype.hasobject for array in arrays)


class _Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("sprung",)


def test_arrays_of_objects_are_not_unpickled(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.array([_Trap()], object)
    warmup = dict(np.load(copied / "warmup.npz"))
    for name, content in (("habits.npy", trap), ("warmup.npz", warmup | {"names": trap})):
        saved = (copied / name).read_bytes()
        file = io.BytesIO()
        if isinstance(content, dict):
            np.savez(file, **content)
        else:
            np.save(file, content)
        (copied / name).write_bytes(file.getvalue())
        seal(copied)
        with pytest.raises(BundleError, match="cannot be read"):
            Bundle.load(copied)
        (copied / name).write_bytes(saved)
    assert not (tmp_path / "sprung").exists()


def test_a_link_out_of_the_bundle_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "card.md").rename(tmp_path / "card.md")
    (copied / "card.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(BundleError, match="link to a file outside"):
        Bundle.load(copied)


def test_a_link_within_it_is_fine(copied: Path) -> None:
    """As a mounted ConfigMap has them."""
    (copied / "card.md").rename(copied / "card-1.md")
    (copied / "card.md").symlink_to("card-1.md")
    assert Bundle.load(copied)


def test_names_in_the_checksums_are_not_opened(copied: Path) -> None:
    sums = json.loads((copied / CHECKSUMS).read_text())
    (copied / CHECKSUMS).write_text(json.dumps(sums | {"../../etc/passwd": "0", "/dev/zero": "0"}))
    assert set(sums) <= {*FILES, *OPTIONAL}
    assert Bundle.load(copied)


def test_what_would_unpack_to_too_much_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(copied / "warmup.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(32 << 20))
    seal(copied)
    monkeypatch.setattr(bundles, "_MOST_BYTES", 16 << 20)
    with pytest.raises(BundleError, match="would unpack to"):
        Bundle.load(copied)


def test_an_array_that_claims_to_be_larger_than_its_file_is_refused(copied: Path) -> None:
    whole = (copied / "habits.npy").read_bytes()
    shape = np.load(copied / "habits.npy").shape
    header = whole[: whole.index(b"\n") + 1]
    claimed = header.replace(str(shape).encode(), f"({10**13}, 2)".encode())
    claimed = claimed.rstrip(b"\n")[: len(header) - 1].ljust(len(header) - 1) + b"\n"
    (copied / "habits.npy").write_bytes(claimed + whole[len(header) :])
    seal(copied)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.load(copied)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '{"a": ', "[" * 200_000, '"\ud800"'])
def test_checksums_that_are_none_are_a_bundle_error(copied: Path, content: str) -> None:
    (copied / CHECKSUMS).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError):
        Bundle.load(copied)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:50]:
        yield value, key
        yield from _places(inner)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_whatever_its_json_holds_it_opens_or_is_refused(copied: Path, name: str) -> None:
    chance = random.Random(name)
    saved = (copied / name).read_text()
    values: tuple[Any, ...] = (None, [], {}, "", "\ud800", -1, 1e308, 10**30, True, "\0" * 70, [[[]]])
    for _ in range(60):
        content = json.loads(saved)
        holder, key = chance.choice(list(_places(content)))
        holder[key] = chance.choice(values)
        (copied / name).write_text(json.dumps(content))
        seal(copied)
        with contextlib.suppress(BundleError):  # any other error fails
            Bundle.load(copied)


#: Modules that run code found in data.
_UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
#: Functions that do.
_LOADERS = {
    *("eval", "exec", "builtins.eval", "builtins.exec", "torch.load", "pd.read_pickle", "pandas.read_pickle"),
    *(
        "yaml.load",
        "yaml.load_all",
        "yaml.full_load",
        "yaml.full_load_all",
        "yaml.unsafe_load",
        "yaml.unsafe_load_all",
    ),
}


def _modules() -> dict[str, Path]:
    rooms = ("data", "detection", "serving", "configs")
    paths = (path for room in rooms for path in (ROOT / room).rglob("*.py"))
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _dangers(tree: ast.AST) -> Iterator[str]:
    """What a module does that can run code found in data."""
    yield from (f"imports {name}" for name in _imports(tree) if name.split(".")[0] in _UNPICKLERS)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in _LOADERS:
            yield f"calls {called}"
        elif (
            called in ("np.load", "numpy.load", "np.lib.format.read_array")
            and given.get("allow_pickle") != "False"
        ):
            yield f"calls {called} without allow_pickle=False"
        elif given.get("allow_pickle", "False") != "False":
            yield f"calls {called} with allow_pickle"


def test_nothing_that_serves_or_detects_unpickles() -> None:
    """Walks the imports, those inside functions too, from every module of serving and detection."""
    modules = _modules()
    waiting = [name for name in modules if name.split(".")[0] in ("serving", "detection")]
    seen: dict[str, list[str]] = {}
    while waiting:
        name = waiting.pop()
        if name in seen or name not in modules:
            continue
        tree = ast.parse(modules[name].read_text("utf-8"))
        seen[name] = list(_dangers(tree))
        waiting += _imports(tree)
    assert {"detection.bundle", "data.events.decode", "serving.scoring.engine"} <= set(seen)
    assert {name: found for name, found in seen.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def late():\n    from cloudpickle import loads",
        "import dill.session",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "numpy.savez(path, a, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "torch.load(path)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_walk_sees_each_way_to_unpickle(source: str) -> None:
    assert list(_dangers(ast.parse(source)))
