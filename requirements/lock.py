"""Write the lock files: every package an install needs, at one exact version, with the hashes of its files (`make lock`).

`lock.txt` holds all extras but Spark's; `serving.txt` and `training.txt` are the parts that the two images and the demo install;
`tools.txt` is what `make lock`, `make sbom` and `make audit` run, `fuzz.txt` what `make fuzz` adds, `spark.txt` what Spark's
machines need. Each is installed with `--require-hashes --no-deps`.

torch stands apart, in `torch.txt`: its build without CUDA is not on the package index, and the libraries that come with a
build with CUDA belong to that build alone (`cuda.txt`); `install_torch.py` installs both. No index is written into a file.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = "# Made by `make lock`; not to be edited by hand. Install with: {}\n"
INSTALL = "pip install --require-hashes --no-deps -r requirements/{}"
#: Too large for what everybody installs, and of one command alone.
APART = {"spark"}
EXTRAS = (
    tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    - APART
)
#: File -> what uv resolves for it. The first is resolved by itself, the others at its versions.
FILES = {
    "lock.txt": (
        "pyproject.toml",
        "requirements/build.in",
        *(f"--extra={extra}" for extra in sorted(EXTRAS)),
    ),
    "serving.txt": (
        "pyproject.toml",
        "requirements/build.in",
        "--extra=kafka",
        "--extra=oidc",
        "--extra=otel",
        "--extra=postgres",
    ),
    "training.txt": ("pyproject.toml", "requirements/build.in", "--extra=train"),
    "spark.txt": ("pyproject.toml", "requirements/build.in", "--extra=spark"),
    "tools.txt": ("requirements/tools.in",),
    "fuzz.txt": ("requirements/fuzz.in",),
}
OF_A_TORCH_BUILD = re.compile(r"^(nvidia-|triton==|cuda-)")
#: SHA-256 of torch's wheels without CUDA that no package index lists: `pip hash` of each, to be renewed with torch's version.
CPU_WHEELS = {
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
}


def entries(text: str) -> list[str]:
    """Each package of a lock file with its hashes, as one text."""
    return re.split(r"\n(?=\w)", re.sub(r"(?m)^#.*\n", "", text).strip())


def write(name: str, packages: list[str], how: str) -> None:
    """Write one file."""
    (HERE / name).write_text(HEADER.format(how) + "\n".join(packages) + "\n")
    print(f"requirements/{name}: {len(packages)} packages")


def main() -> int:
    """Resolve with uv, keeping versions that are already locked and still fit; return its exit status."""
    options = (
        "--universal",
        "--fork-strategy=fewest",
        "--python-version=3.11",
        "--generate-hashes",
        "--quiet",
    )
    plain = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links")
    for name, wanted in FILES.items():
        same = (
            () if name in ("lock.txt", "tools.txt", "fuzz.txt") else ("--constraint=requirements/lock.txt",)
        )
        command = (sys.executable, "-m", "uv", "pip", "compile", *wanted, *options, *plain, *same)
        done = subprocess.run(
            [*command, f"--output-file=requirements/{name}", *sys.argv[1:]], cwd=HERE.parent
        )
        if done.returncode:
            return done.returncode
        found = entries((HERE / name).read_text())
        torch = [one for one in found if one.startswith("torch==")]
        cuda = [one for one in found if OF_A_TORCH_BUILD.match(one)]
        if name == "lock.txt":
            # A machine that is offered the build without CUDA has a local version, such as +cpu.
            (pin,) = (re.sub(r"\+\w+", "", one) for one in torch)
            hashes = sorted({*re.findall(r"sha256:(\w+)", pin), *CPU_WHEELS.values()})
            pin = " \\\n    ".join([pin.split()[0], *(f"--hash=sha256:{one}" for one in hashes)])
            write(
                "torch.txt",
                [pin],
                "python requirements/install_torch.py",
            )
            write("cuda.txt", cuda, "python requirements/install_torch.py")
        write(name, [one for one in found if one not in torch and one not in cuda], INSTALL.format(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
