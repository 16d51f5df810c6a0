#!/usr/bin/env python3
"""The commands of a checkout; they need nothing but Python beforehand.

    python3 dev.py demo     run the hub with a simulated back office (takes the options of `analytics-hub demo`)
    python3 dev.py test     run the tests on all cores (takes the options of pytest; --serial: in one process)
    python3 dev.py lint     run the linters and the type checkers
    python3 dev.py check    lint, then test
    python3 dev.py audit    ask an advisory service about what is installed

The first call makes `.venv` and installs into it; later calls install only what has changed.
"""

# No syntax newer than Python 3.6: an old Python must come as far as the sentence that says so.
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN, EXE = (VENV / "Scripts", ".exe") if os.name == "nt" else (VENV / "bin", "")
PYTHON, UV = BIN / f"python{EXE}", BIN / f"uv{EXE}"
CONSTRAINTS = ROOT / "constraints.txt"

GROUPS = {"demo": "", "test": "test", "lint": "lint", "check": "lint", "audit": "audit"}
# A file of tests stays in one process, where its fixtures are set up once; tools/progress.py starts the longest
# first.
PYTEST = ("pytest", "-p", "tools.progress", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("pyright",))


def run(*command: object, quiet: bool = False) -> None:
    """Run a command in the checkout; where it fails, end with its exit code.

    With `quiet` its output is shown only then, and as a whole: installers warn of much that is no error.
    """
    out, err = (subprocess.PIPE, subprocess.STDOUT) if quiet else (None, None)
    done = subprocess.run([str(part) for part in command], check=False, cwd=str(ROOT), stdout=out, stderr=err)
    if done.returncode:
        print((done.stdout or b"").decode(errors="replace"), end="", file=sys.stderr, flush=True)
        sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)


def become(*command: object) -> None:
    """Hand over to a command for good, and with that every signal and the exit code."""
    arguments = [str(part) for part in command]
    if os.name == "nt":  # exec would give the terminal back to the shell at once there
        sys.exit(subprocess.call(arguments))
    os.execv(arguments[0], arguments)


def prepare(group: str) -> None:
    """Bring `.venv` to what the project and its dependency group `group` ask for ("" for the project alone)."""
    stamp = VENV / f".dev-{group}"
    asked_for = (ROOT / "pyproject.toml").read_bytes() + CONSTRAINTS.read_bytes() + bytes(ROOT)
    digest = hashlib.sha256(asked_for).hexdigest()
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == digest:
        return
    print(f"dev.py: installing into {VENV}", file=sys.stderr, flush=True)
    if not (PYTHON.exists() and UV.exists()):
        if importlib.util.find_spec("ensurepip") is None:
            sys.exit("dev.py: this Python cannot make a virtual environment; on Debian: apt install python3-venv")
        run(sys.executable, "-m", "venv", *([] if PYTHON.exists() else ["--clear"]), VENV, quiet=True)
        pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")  # a question would not be seen
        run(PYTHON, *pip, "install", "-c", CONSTRAINTS, "uv", quiet=True)
    pinned = ("-c", CONSTRAINTS, "--build-constraints", CONSTRAINTS)
    groups = ("--group", group) if group else ()
    run(UV, "pip", "install", "--quiet", "--python", PYTHON, *pinned, "-e", ".", *groups, quiet=True)
    stamp.write_text(digest)


def main(command: str = "help", *arguments: str) -> None:
    if command not in GROUPS or (command in ("lint", "audit") and arguments):
        asked = command in ("help", "-h", "--help")
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"  # the Python that runs this was chosen
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ.setdefault("XDG_CACHE_HOME", str(VENV / "cache"))
    prepare(GROUPS[command])
    if command == "demo":  # where the user is: `--feed` may name a file
        become(BIN / f"analytics-hub{EXE}", "demo", *arguments)
    os.chdir(str(ROOT))
    if command == "audit":
        become(PYTHON, "-m", "tools.audit")
    for check in CHECKS if command != "test" else ():
        run(BIN / check[0], *check[1:])
    if command != "lint":
        if sys.stdout is None:  # closed; pytest would end with a traceback
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.set_inheritable(1, True)
        become(PYTHON, "-m", *PYTEST, *arguments)


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("dev.py: analytics-hub needs Python 3.11 or later; this is {}.{}".format(*sys.version_info))
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
