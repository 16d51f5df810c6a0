"""Asks an advisory service about every package in `.venv`: `python3 dev.py audit`.

Exits with 1 if one has a known vulnerability, with 3 if no service could be reached, so that nothing is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

UNREACHABLE = 3


def audit() -> int:
    """Run the audit, print its findings, return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run([*command, "--local", "--skip-editable"], capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: no answer: {done.stderr.strip().splitlines()[-1:] or 'nothing was printed'}")
        return UNREACHABLE
    answered = [package for package in packages if "vulns" in package]
    vulnerabilities = [(package, vulnerability) for package in answered for vulnerability in package["vulns"]]
    for package, vulnerability in vulnerabilities:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"audit: {len(answered)} of {len(packages)} packages were checked, {len(vulnerabilities)} vulnerabilities")
    if vulnerabilities:
        return 1
    return 0 if answered else UNREACHABLE


if __name__ == "__main__":
    sys.exit(audit())
