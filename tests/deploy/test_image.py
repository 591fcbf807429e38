"""The serving image, built from the Dockerfile and run as a cluster would: without rights, on a root that cannot be written.

Needs root, and Debian's buildah, runc and debootstrap; some minutes and 4 GB of disk. The base is made here, unless
`KUBEHABIT_IMAGE_BASE` names a folder that holds one (Debian with Python 3.11, as `python`, and venv).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data.paths import Recordings
from tests.deploy.programs import program
from tests.deploy.served import free_port
from tests.serving.receivers import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOKEN = "token-of-the-test-of-the-image-0123456789"
USER = 10001
NAME = "localhost/kubehabit:serving"
#: What only training needs.
ABSENT = ("torch", "lightning", "pandas", "datasets", "sklearn", "matplotlib", "pytest")


def done(*command: str | Path) -> str:
    """What a command printed; its error fails the test."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def made_base(folder: Path) -> Path:
    """A Debian with Python, or the one that is given."""
    if given := os.environ.get("KUBEHABIT_IMAGE_BASE"):
        return Path(given)
    debootstrap = program("debootstrap", "debootstrap")
    sources = done("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)").splitlines()
    mirror = next((line.split()[1] for line in sources if line.split()[0] == "bookworm"), None)
    if mirror is None:
        pytest.skip("no source of Debian 12 is configured: KUBEHABIT_IMAGE_BASE")
    packages = "python3,python3-venv,ca-certificates"
    done(debootstrap, "--variant=minbase", f"--include={packages}", "bookworm", folder, mirror)
    (folder / "usr" / "bin" / "python").symlink_to("python3")
    return folder


def pip_settings() -> list[str]:
    """Options that give a build this machine's settings of pip, and the folders that these name."""
    found = done(sys.executable, "-m", "pip", "config", "list").splitlines()
    values = " ".join(line.partition("=")[2].strip("'\"") for line in found).replace("file://", "").split()
    folders = {Path(value) for value in values if value.startswith("/")}
    folders |= {Path("/etc/pip.conf"), Path("/etc/xdg/pip")}
    mounted = sorted({folder for folder in folders if folder.exists()})
    # A mirror is often a folder of links into another one beside it.
    mounted = sorted({path.parent if path.name == "simple" else path for path in mounted})
    return [option for path in mounted for option in ("--volume", f"{path}:{path}:ro")]


class Image:
    """The image, unpacked.

    Attributes:
        root: the folder of its files.
        config: what it says of user, command and environment.
    """

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.config = config


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if os.geteuid() != 0:
        pytest.skip("images are built as root here")
    folder = tmp_path_factory.mktemp("image")
    program("runc", "runc")
    buildah = (program("buildah", "buildah"), "--root", folder / "images", "--runroot", folder / "run")
    base = made_base(folder / "base")
    try:
        container = done(*buildah, "from", "scratch").strip()
        done(*buildah, "copy", "-q", container, base, "/")
        done(*buildah, "commit", "-q", "--rm", container, "localhost/base")
        done(
            *buildah,
            *("build", "--isolation", "chroot", "--network", "host", "--layers=false"),
            *("--build-arg", "BASE=localhost/base", "--target", "serving", "--tag", NAME),
            *pip_settings(),
            ROOT,
        )
        container = done(*buildah, "from", NAME).strip()
        described = json.loads(done(*buildah, "inspect", "--type", "image", NAME))
        yield Image(Path(done(*buildah, "mount", container).strip()), described["OCIv1"]["config"])
    finally:
        subprocess.run([*map(str, buildah), "umount", "--all"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def container(
    image: Image, folder: Path, *command: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command in a container as the chart runs it, but for the network, which is this machine's."""
    runc = program("runc", "runc")
    done(runc, "spec", "--bundle", folder)
    spec = json.loads((folder / "config.json").read_text())
    user, _, group = image.config["User"].partition(":")
    spec["process"] |= {
        "terminal": False,
        "user": {"uid": int(user), "gid": int(group)},
        "args": [*command],
        "cwd": image.config["WorkingDir"],
        "env": image.config["Env"] + [f"{name}={value}" for name, value in (environment or {}).items()],
        "capabilities": {name: [] for name in spec["process"]["capabilities"]},
        "noNewPrivileges": True,
    }
    spec["root"] = {"path": str(image.root), "readonly": True}
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    spec["mounts"] = [one for one in spec["mounts"] if one["type"] not in ("cgroup", "sysfs")]
    options = ["nosuid", "nodev", "mode=0700", f"uid={user}", f"gid={group}"]
    for place in (*image.config["Volumes"], "/tmp"):
        spec["mounts"].append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
    (folder / "config.json").write_text(json.dumps(spec))
    name = f"kubehabit-{os.getpid()}-{folder.name}"
    process = subprocess.Popen(
        [runc, "--root", str(folder / "runc"), "run", "--bundle", str(folder), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        subprocess.run([runc, "--root", str(folder / "runc"), "kill", name, "KILL"], capture_output=True)
        process.wait(30)


def ran(image: Image, folder: Path, *command: str) -> tuple[int, str]:
    """Exit status and output of a command in the image."""
    with container(image, folder, *command) as process:
        output, _ = process.communicate(timeout=120)
        return process.returncode, output


def test_it_holds_what_serving_needs_and_nothing_of_training(image: Image, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, kubehabit.main, serving.app, sys\n"
        "def there(name):\n"
        "    try: return u.find_spec(name) is not None\n"
        "    except ModuleNotFoundError: return False\n"
        f"print([name for name in {ABSENT!r} if there(name)], u.find_spec('onnxruntime') is not None)"
    )
    status, output = ran(image, tmp_path, "python", "-c", code)
    assert (status, output.strip()) == (0, "[] True")


def test_its_user_can_write_nothing_but_its_volume(image: Image, tmp_path: Path) -> None:
    assert image.config["User"] == f"{USER}:{USER}"
    script = "id -u; touch /opt/kubehabit/x /etc/x /x; touch /var/lib/kubehabit/x && echo kept"
    status, output = ran(image, tmp_path, "sh", "-c", script)
    assert status == 0, output
    assert {str(USER), "kept"} <= set(output.splitlines())
    assert output.count("Read-only file system") == 3
    inside = subprocess.run(
        ["find", str(image.root), "-xdev", "-perm", "/6000", "-path", "*kubehabit*"],
        capture_output=True,
        text=True,
    )
    assert inside.stdout == ""


def test_it_serves_as_the_image_starts_it(image: Image, tmp_path: Path) -> None:
    import zstandard

    with zstandard.open(Recordings.shipped().normal, "rt") as log:
        events = [json.loads(next(log)) for _ in range(500)]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"KUBEHABIT_TOKEN": TOKEN, "KUBEHABIT_PORT": str(port)}

    def asked(path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=30) as answer:
            return json.load(answer)

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    command = image.config["Entrypoint"] + image.config["Cmd"]
    with container(image, tmp_path, *command, environment=settings) as process:
        until(lambda: ready() or process.poll() is not None)
        if process.poll() is not None:
            pytest.fail(process.communicate()[0])
        answer = asked("/v1/score", {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": events})
        assert answer["counts"]["records"] == len(answer["results"]) == len(events)
        assert answer["counts"]["scored"] > 400
        assert asked("/v1/model")["source"] == "starter"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/v1/model", timeout=5)
