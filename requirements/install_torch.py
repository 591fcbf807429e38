"""Install torch from a wheel whose SHA-256 is in `torch.txt`; further arguments go to pip, such as `--index-url URL`.

pip's own hash mode cannot be used: it prefers a wheel of the package index, with CUDA, to one without CUDA that the machine
offers. So pip downloads the wheel that it would install, this script compares its hash, and then it is installed. What a
build with CUDA needs besides comes from `cuda.txt`, in hash mode; the rest of what torch needs is in the lock file already.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
#: Set to 1, it installs a wheel that is not listed.
UNVERIFIED = "TORCH_UNVERIFIED"


def refusal(wheel: Path, locked: str) -> str | None:
    """Why a wheel must not be installed; None if its hash is locked."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found in re.findall(r"--hash=sha256:(\w+)", locked):
        return None
    return (
        f"{wheel.name} has the SHA-256 {found}, which requirements/torch.txt does not list, so it is not installed. If it is the "
        "build that you want, add it to CPU_WHEELS in requirements/lock.py and run `make lock`, or take it as it is: "
        f"{UNVERIFIED}=1 make ..."
    )


def main(arguments: list[str]) -> int:
    """Download, compare, install."""
    locked = (HERE / "torch.txt").read_text()
    pinned = re.findall(r"^torch==\S+", locked, re.M)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*PIP, "download", "--no-deps", "--dest", folder, *arguments, *pinned], check=True)
        (wheel,) = Path(folder).iterdir()
        refused = refusal(wheel, locked)
        if refused and os.environ.get(UNVERIFIED) != "1":
            print(refused, file=sys.stderr)
            return 1
        subprocess.run([*PIP, "install", "--no-deps", "--no-compile", str(wheel)], check=True)
        if "+cpu" not in wheel.name:
            command = (
                "install",
                "--require-hashes",
                "--no-deps",
                "--no-compile",
                "-r",
                str(HERE / "cuda.txt"),
            )
            subprocess.run([*PIP, *command], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
