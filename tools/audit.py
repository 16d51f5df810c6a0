"""Asks an advisory service about every package in `.venv`: `python3 dev.py audit`.

Ends with 1 if one has a known hole, with 3 if no service could be asked: then nothing is known, which is not the same
as nothing being wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

UNANSWERED = 3


def audit() -> int:
    """Run the audit, print what it found, return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run([*command, "--local", "--skip-editable"], capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: no answer: {done.stderr.strip().splitlines()[-1:] or 'nothing was printed'}")
        return UNANSWERED
    answered = [package for package in packages if "vulns" in package]
    holes = [(package, hole) for package in answered for hole in package["vulns"]]
    for package, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    print(f"audit: {len(answered)} of {len(packages)} packages could be asked about, {len(holes)} holes")
    if holes:
        return 1
    return 0 if answered else UNANSWERED


if __name__ == "__main__":
    sys.exit(audit())
