"""The modules of the package: `transports/` is a folder of its own that belongs to it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "analytics_hub"


def source_files() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found: dict[str, Path] = {}
    for folder, package in ((ROOT / PACKAGE, PACKAGE), (ROOT / "transports", f"{PACKAGE}.transports")):
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).with_suffix("").parts
            if package != PACKAGE or inside[0] != "transports":  # the folder behind the link is listed by itself
                found[".".join((package, *inside)).removesuffix(".__init__")] = path
    return found
