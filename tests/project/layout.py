"""Where the modules of the package are: `transports/` is a folder of its own that belongs to the package."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "analytics_hub"


def source_files() -> dict[str, Path]:
    """Dotted name -> file of every module of the package, as it is on disk."""
    found: dict[str, Path] = {}
    for folder, package in ((ROOT / PACKAGE, PACKAGE), (ROOT / "transports", f"{PACKAGE}.transports")):
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).with_suffix("").parts
            if package != PACKAGE or inside[0] != "transports":  # what is behind the link comes with its folder
                found[".".join((package, *inside)).removesuffix(".__init__")] = path
    return found
