"""What is installed: the wheel holds the rooms and no recording, and serving pulls in no training package."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("kubehabit", "configs", "data", "detection", "training", "serving")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~!; ]", requirement)[0].lower() for requirement in requirements}


def locked(*files: str) -> dict[str, str]:
    """Package -> version in lock files."""
    text = "".join((ROOT / "requirements" / file).read_text(encoding="utf-8") for file in files)
    return dict(re.findall(r"(?m)^([\w.-]+)(?:\[[\w,]+\])?==([^ ;]+)", text))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel, built from a copy so that the source tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


@pytest.mark.slow
def test_the_wheel_carries_every_module_and_configuration_and_the_licence(wheel: list[str]) -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in {".py", ".yaml", ".html", ".css"} and "recordings" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


@pytest.mark.slow
def test_the_wheel_carries_no_recording_and_no_test(wheel: list[str]) -> None:
    assert [name for name in wheel if "recordings" in name or name.startswith(("tests", "benchmarks"))] == []


def test_the_serving_install_asks_for_no_training_package() -> None:
    base, train = names(PROJECT["dependencies"]), names(PROJECT["optional-dependencies"]["train"])
    assert base & (train | {"pandas", "scipy"}) == set()


def test_every_dependency_is_locked_and_torch_fits_either_build() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = names(PROJECT["dependencies"]).union(*map(names, extras.values()))
    everything = locked("lock.txt", "torch.txt", "spark.txt")
    assert wanted <= set(everything)
    assert f"torch=={everything['torch']}" in extras["train"]
    assert "+" not in everything["torch"]


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
def test_every_locked_package_has_a_version_and_hashes(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
    packages = re.split(r"\n(?=\w)", re.sub(r"(?m)^#.*\n", "", text).strip())
    for package in packages:
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+", package), package
        assert "--hash=sha256:" in package, package
    assert len(packages) == len(locked(file))


def test_the_lock_files_agree() -> None:
    everything = locked("lock.txt", "torch.txt")
    assert locked("serving.txt").items() <= everything.items()
    assert locked("training.txt").items() <= everything.items()
    assert names(PROJECT["dependencies"]) <= set(locked("serving.txt"))
    assert set(locked("serving.txt")).isdisjoint({"torch", "lightning", "pandas", "matplotlib", "pyarrow"})


def test_nothing_is_installed_without_its_hash() -> None:
    for file in ("Makefile", "Dockerfile"):
        text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r".*(?:pip install|\$\(PIP\) install|-m pip .*install).*", text):
            # The project itself comes from the checkout, pip from Python or the machine.
            if not re.search(r"--no-build-isolation|install --quiet pip|^\s*#", line):
                assert "--require-hashes" in line, (file, line)


def test_every_dependency_says_why_it_is_there() -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    extras = PROJECT["optional-dependencies"]
    for name in names(PROJECT["dependencies"]).union(*map(names, extras.values())):
        assert name in reasons


@pytest.mark.parametrize("module", ["serving.server", "serving.rollout.score_file"])
def test_serving_loads_no_training_package(module: str) -> None:
    heavy = "torch lightning pandas datasets pyarrow matplotlib sklearn onnx mlflow.pyfunc training"
    code = f"import sys, {module}; print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_image_copies_only_what_is_there() -> None:
    sources = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M
    )
    assert sources
    for source in " ".join(sources).split():
        assert (ROOT / source).exists(), source
        assert f"!{source.partition('/')[0]}" in (ROOT / ".dockerignore").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert last == "make test"
    assert f"\n    {last} " in (ROOT / "README.md").read_text(encoding="utf-8")
