"""The example of `docs/payloads.md` runs, and its message is the one that is raised."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

from analytics_hub import InvalidItem
from analytics_hub.protocol.encoding import PayloadEncoder

from .layout import ROOT

PAGE = (ROOT / "docs" / "payloads.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(MESSAGE,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_converts_a_type_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = ModuleType("shop.models")
    monkeypatch.setitem(sys.modules, shop.__name__, shop)
    exec(compile(EXAMPLE, "payloads.md", "exec"), vars(shop))
    fees = {"fees": [{"paid": shop.Money(150, "EUR")}]}

    assert PayloadEncoder(shop.encode).encode(fees) == b'{"fees":[{"paid":{"amount":1.5,"currency":"EUR"}}]}'
    with pytest.raises(InvalidItem) as caught:
        PayloadEncoder().encode(fees)
    assert str(caught.value) == " ".join(MESSAGE.split())
    with pytest.raises(InvalidItem, match="cannot publish a complex"):
        PayloadEncoder(shop.encode).encode(1j)
