"""`need` finds a program, skips the test without it, or fails it in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.programs import need


def test_a_program_in_the_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert Path(need("cc")) == compiler


def test_a_missing_program_skips_the_test_and_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="apt install gcc"):
        need("cc")


def test_a_missing_program_fails_the_test_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="apt install redis-server"):
        need("redis-server")
