"""The machine finds what is broken on purpose: a few mutants here, all of them by `python -m tests.core.mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import mutants
from .mutants import MUTANTS, Edit, Mutant, Outdated, find_in_copy, mutated

CORE = mutants.ROOT / "analytics_hub" / "core"
QUICK = ("position-one-short", "newest-overwritten", "gap-unsaid", "conflated-as-dropped")
"""Each is found within a few examples."""


@pytest.mark.parametrize("mutant", [each for each in MUTANTS if each.name in QUICK], ids=lambda each: each.name)
def test_the_machine_finds(mutant: Mutant) -> None:
    verdict = find_in_copy(mutant)
    assert verdict.error is not None, f"survived {verdict.examples} examples: {mutant.what}"
    assert verdict.examples, verdict.error


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_every_mutant_fits_the_source(mutant: Mutant) -> None:
    for edit in mutant.edits:
        source = (CORE / edit.file).read_text(encoding="utf-8")
        broken = mutated(edit, source, mutant.name)
        assert broken != source
        compile(broken, edit.file, "exec")


def test_names_are_unique_and_the_quick_ones_are_there() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert set(QUICK) <= set(names)


@pytest.mark.parametrize("source", ["", "b = a\na = b\nb = a\n"], ids=["gone", "twice"])
def test_a_mutant_that_does_not_fit_says_that_it_has_to_be_renewed(source: str, tmp_path: Path) -> None:
    path = tmp_path / "log.py"
    path.write_text(source, encoding="utf-8")
    mutant = Mutant("swap", "Swaps.", (Edit("log.py", "b = a", "a = b"),))
    with pytest.raises(Outdated, match="'swap' has to be renewed"):
        mutants.apply(mutant, tmp_path)
    assert path.read_text(encoding="utf-8") == source
