"""dev.py as a newcomer meets it. Programs that record how they were called stand in for uv, Python and the checkers.

That the real ones play along is shown by every run of these tests that dev.py itself has started.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .layout import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")

STAND_IN = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "$LOG"
echo "$name in $(pwd) downloads=$UV_PYTHON_DOWNLOADS cache=$XDG_CACHE_HOME" >> "$LOG.surroundings"
echo "$name says something" || echo "$name has no stdout" >> "$LOG"
echo "WARNING: of $name" >&2
case "$*" in *" pip "*" uv") cp "$0" "$(dirname "$0")/uv" ;; esac
if [ -n "$INTERRUPT" ]; then kill -INT $PPID; fi
if [ "$name" = "$FAILING" ]; then exit 7; fi
"""


class Checkout:
    """A checkout with a `.venv` of stand-ins. Its name has a space in it, as people's folders do."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.elsewhere = folder / "elsewhere"
        self.log = folder / "log"
        self.bin = self.root / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        self.elsewhere.mkdir()
        for name in ("dev.py", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for name in ("python", "uv", "analytics-hub", "ruff", "mypy", "pyright"):
            self.stand_in(self.bin / name)

    def stand_in(self, path: Path) -> None:
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def dev(self, *arguments: str, first: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run dev.py from another folder; `first` is Python that runs before it in the same process."""
        script = f"import runpy, sys; {first or 'pass'}; runpy.run_path(sys.argv[0], run_name='__main__')"
        starter = f"import sys; sys.argv = sys.argv[1:]; {script}"
        return subprocess.run(
            [sys.executable, "-c", starter, str(self.root / "dev.py"), *arguments],
            cwd=self.elsewhere,
            env={"PATH": os.defpath, "HOME": str(self.elsewhere), "LOG": str(self.log)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """The calls since the last look."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return calls

    def surroundings(self) -> str:
        """The folder and the environment of every call until now."""
        return self.log.with_name("log.surroundings").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_call_installs_with_the_constraints(checkout: Checkout) -> None:
    done = checkout.dev("test")

    install, run = checkout.calls()
    pins = checkout.root / "constraints.txt"
    assert done.returncode == 0
    assert install.startswith("uv pip install")
    assert f"--python {checkout.bin / 'python'} -c {pins} --build-constraints {pins} -e . --group test" in install
    assert run.startswith("python -m pytest")
    assert f"uv in {checkout.root} downloads=never" in checkout.surroundings()


def test_later_calls_install_nothing(checkout: Checkout) -> None:
    checkout.dev("test")
    checkout.calls()

    done = checkout.dev("test")

    assert [call.partition(" ")[0] for call in checkout.calls()] == ["python"]
    assert "dev.py" not in done.stderr


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again(checkout: Checkout, name: str) -> None:
    checkout.dev("test")
    checkout.calls()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")

    checkout.dev("test")

    assert [call.partition(" ")[0] for call in checkout.calls()] == ["uv", "python"]


def test_a_moved_checkout_installs_again(checkout: Checkout, tmp_path: Path) -> None:
    checkout.dev("demo")
    checkout.calls()
    checkout.root = checkout.root.rename(tmp_path / "moved")

    checkout.dev("demo")

    assert [call.partition(" ")[0] for call in checkout.calls()] == ["uv", "analytics-hub"]


def test_the_demo_needs_no_tools_of_developers(checkout: Checkout) -> None:
    checkout.dev("demo")

    assert "--group" not in checkout.calls()[0]


def test_a_failed_installation_is_no_installation(checkout: Checkout) -> None:
    assert checkout.dev("test", FAILING="uv").returncode == 7
    assert len(checkout.calls()) == 1

    checkout.dev("test")

    assert len(checkout.calls()) == 2


INSTALLERS = ["base", "python", "uv"]
"""What makes the virtual environment, what installs uv, and what installs the rest."""


@pytest.fixture
def bare(checkout: Checkout) -> Checkout:
    """One where uv is missing, so that all installers run."""
    (checkout.bin / "uv").unlink()
    checkout.stand_in(checkout.elsewhere / "base")
    return checkout


def set_up(checkout: Checkout, **environment: str) -> subprocess.CompletedProcess[str]:
    return checkout.dev("demo", first=f"sys.executable = {str(checkout.elsewhere / 'base')!r}", **environment)


def test_what_installers_say_is_not_shown(bare: Checkout) -> None:
    done = set_up(bare)

    assert [call.partition(" ")[0] for call in bare.calls()] == [*INSTALLERS, "analytics-hub"]
    assert done.stdout == "analytics-hub says something\n"
    assert done.stderr == f"dev.py: installing into {bare.root / '.venv'}\nWARNING: of analytics-hub\n"


@pytest.mark.parametrize("installer", INSTALLERS)
def test_what_a_failed_installer_says_is_shown(bare: Checkout, installer: str) -> None:
    done = set_up(bare, FAILING=installer)

    assert done.returncode == 7
    assert done.stdout == ""
    assert done.stderr.splitlines()[1:] == [f"{installer} says something", f"WARNING: of {installer}"]


def test_pip_asks_no_question_that_would_not_be_seen(bare: Checkout) -> None:
    set_up(bare)

    assert " --no-input " in bare.calls()[1]


def test_arguments_and_exit_code_are_passed_on(checkout: Checkout) -> None:
    done = checkout.dev("test", "-k", "ring or log", FAILING="python")

    assert done.returncode == 7
    assert checkout.calls()[-1].endswith(" -k ring or log")


def test_tests_run_without_stdout(checkout: Checkout) -> None:
    checkout.dev("test", first="import os; os.close(1); sys.stdout = None")

    assert "python has no stdout" not in checkout.calls()


def test_the_demo_runs_where_the_user_is(checkout: Checkout) -> None:
    """`--feed FILE` names a file of the user's."""
    done = checkout.dev("demo", "--rate", "100", FAILING="analytics-hub")

    assert done.returncode == 7
    assert checkout.calls()[-1] == "analytics-hub demo --rate 100"
    assert f"analytics-hub in {checkout.elsewhere} " in checkout.surroundings()


def test_the_tests_run_in_the_checkout(checkout: Checkout) -> None:
    checkout.dev("test")

    assert f"python in {checkout.root} " in checkout.surroundings()


def test_check_lints_then_tests(checkout: Checkout) -> None:
    checkout.dev("check", "-x")

    *checks, tests = checkout.calls()[1:]
    assert checks == ["ruff check .", "ruff format --check .", "mypy ", "pyright "]
    assert tests.startswith("python -m pytest")
    assert tests.endswith(" -x")


def test_lint_runs_no_tests(checkout: Checkout) -> None:
    checkout.dev("lint")

    assert checkout.calls()[-1] == "pyright "


def test_check_stops_at_the_first_complaint(checkout: Checkout) -> None:
    assert checkout.dev("check", FAILING="mypy").returncode == 7
    assert checkout.calls()[-1] == "mypy "


def test_a_home_that_cannot_be_written_is_left_alone(checkout: Checkout) -> None:
    checkout.dev("test", HOME="/nonexistent")

    assert f"cache={checkout.root / '.venv' / 'cache'}" in checkout.surroundings()


def test_ctrl_c_shows_no_traceback(checkout: Checkout) -> None:
    # Background jobs of a shell inherit an ignored SIGINT; a newcomer's terminal does not.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"

    done = checkout.dev("test", first=listen, INTERRUPT="yes")

    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["lint", "tests"]])
def test_misuse_shows_the_commands(checkout: Checkout, arguments: list[str]) -> None:
    done = checkout.dev(*arguments)

    assert done.returncode == 2
    assert "python3 dev.py demo" in done.stderr
    assert checkout.calls() == []


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_is_no_error(checkout: Checkout, arguments: list[str]) -> None:
    done = checkout.dev(*arguments)

    assert done.returncode == 0
    assert "python3 dev.py test" in done.stdout


def test_an_old_python_gets_one_sentence(checkout: Checkout) -> None:
    done = checkout.dev("test", first="sys.version_info = (3, 10, 13, 'final', 0)")

    assert done.returncode == 1
    assert done.stderr == "dev.py: analytics-hub needs Python 3.11 or later; this is 3.10\n"


def test_an_old_python_can_read_that_far() -> None:
    ast.parse((ROOT / "dev.py").read_bytes(), feature_version=(3, 7))


def test_a_python_without_ensurepip_gets_one_sentence(checkout: Checkout) -> None:
    """Debian splits it off into a package of its own."""
    shutil.rmtree(checkout.root / ".venv")

    done = checkout.dev("test", first="sys.modules['ensurepip'] = None")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("apt install python3-venv")
    assert not (checkout.root / ".venv").exists()
