"""Write a software bill of materials (CycloneDX JSON) of each install, from its lock file (`make sbom`)."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Name of the bill -> lock files of that install.
INSTALLS = {
    "serving": ("serving.txt",),
    "training": ("training.txt", "torch.txt"),
    "development": ("lock.txt", "torch.txt"),
}


def main() -> int:
    """Write one file for each install."""
    folder = HERE.parent / "build" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for name, locks in INSTALLS.items():
        locked = "".join((HERE / lock).read_text() for lock in locks)
        out = folder / f"{name}.cdx.json"
        command = (sys.executable, "-m", "cyclonedx_py", "requirements", "-", "--pyproject", "pyproject.toml")
        options = ("--output-reproducible", "--of", "JSON", "-o", str(out))
        done = subprocess.run([*command, *options], input=locked, text=True, cwd=HERE.parent)
        if done.returncode:
            return done.returncode
        print(f"{out.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
