"""Look for known vulnerabilities of every locked package (`make audit`).

Exit status: 0 none known, 1 some found, 2 a mistake in the call, 3 no advisory database answered for some packages, so that
nothing is known about those. Further arguments go to pip-audit, such as `--vulnerability-service osv --osv-url URL` for a mirror
in a closed network.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCKS = ("lock.txt", "torch.txt", "tools.txt", "fuzz.txt")
UNREACHABLE = 3


def audit(lock: str, report: Path, arguments: list[str]) -> tuple[set[str], int]:
    """Known vulnerabilities in a lock file, one line each, and how many packages no database said anything about."""
    command = (sys.executable, "-m", "pip_audit", "--requirement", str(HERE / lock), "--disable-pip")
    options = ("--progress-spinner=off", "--format=json", f"--output={report}")
    done = subprocess.run([*command, *options, *arguments], capture_output=True, text=True)
    if done.returncode == 2:
        print(done.stderr, file=sys.stderr, end="")
        raise SystemExit(2)
    if not report.is_file() or not report.stat().st_size:
        print((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1], file=sys.stderr)
        return set(), (HERE / lock).read_text().count("==")
    packages = json.loads(report.read_text())["dependencies"]
    known = {
        f"{one['name']} {one['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no version yet'}"
        for one in packages
        for found in one.get("vulns", ())
    }
    # pip-audit passes over a package that its database does not answer for, and then reports nothing found.
    return known, sum("skip_reason" in one for one in packages)


def main(arguments: list[str]) -> int:
    """Audit each lock file."""
    known: set[str] = set()
    silent = 0
    with tempfile.TemporaryDirectory() as folder:
        for lock in LOCKS:
            found, unanswered = audit(lock, Path(folder) / f"{lock}.json", arguments)
            known |= found
            silent += unanswered
    for line in sorted(known):
        print(line)
    if silent:
        print(
            f"NOT AUDITED: no advisory database answered for {silent} packages, so nothing is known about them. Run this where "
            "there is a network, or name a mirror: make audit AUDIT_ARGS='--vulnerability-service osv --osv-url URL'",
            file=sys.stderr,
        )
    if not known and not silent:
        print(f"No known vulnerability in {', '.join(LOCKS)}.")
    return 1 if known else UNREACHABLE if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
