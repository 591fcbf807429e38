"""Write lock.txt: the exact version of every package that any extra needs (`make lock`).

It is used as a constraints file (`pip install -c requirements/lock.txt ...`), so one file serves every extra.
No index is written into it, and torch stands without a local version, so that whichever build of it a
machine is offered (with CUDA or without) satisfies it.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = """\
# Every package of every extra, exactly; a constraints file: pip install -c requirements/lock.txt '.[train]'
# Made by `make lock`; not to be edited by hand.
"""
# What a CUDA build of torch brings along belongs to that build and is left to it.
OF_A_TORCH_BUILD = re.compile(r"^(nvidia-|triton==|cuda-)")


def main() -> int:
    """Resolve with uv, keeping versions that are already locked and still fit; return its exit status."""
    lock = HERE / "lock.txt"
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"),
        *("--all-extras", "--python-version", "3.11"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"),
        *("--output-file", str(lock.relative_to(HERE.parent))),
        *sys.argv[1:],
    ]
    done = subprocess.run(command, cwd=HERE.parent)
    if done.returncode:
        return done.returncode
    pins = [line for line in lock.read_text().splitlines() if not OF_A_TORCH_BUILD.match(line)]
    lock.write_text(HEADER + "\n".join(re.sub(r"\+\w+$", "", pin) for pin in pins) + "\n")
    print(f"{lock.relative_to(HERE.parent)}: {len(pins)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
