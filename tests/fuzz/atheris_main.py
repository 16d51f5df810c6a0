"""One target under atheris, which looks for inputs that reach new code.

    python -m tests.fuzz.atheris_main TARGET [options of libFuzzer, and a folder for the corpus]

atheris is not among the dependencies; `pip install atheris` on Linux.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

INSTRUMENTED: Final = ("analytics_hub", "h11", "wsproto")


def main() -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        from .targets import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET is one of {', '.join(TARGETS)}")
    program, name, *options = sys.argv
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix=f"atheris-{name}-") as folder:
        samples, words = Path(folder) / "samples", Path(folder) / "words"
        samples.mkdir()
        for number, sample in enumerate(target.samples):
            (samples / str(number)).write_bytes(sample)
        words.write_text("".join(f'"{_escape(word)}"\n' for word in target.words if 0 < len(word) <= 64))
        # libFuzzer writes new inputs to the first folder, so that of the caller comes first.
        folders = [option for option in options if not option.startswith("-")]
        flags = [option for option in options if option.startswith("-")]
        arguments = [f"-dict={words}", f"-max_len={target.longest}", *flags, *folders, str(samples)]
        atheris.Setup([program, *arguments], target.check)
        atheris.Fuzz()


def _escape(word: bytes) -> str:
    """As libFuzzer reads it in a dictionary."""
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
