"""The tables of README and docs, from the newest result of each device."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness import write

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SHOWN = ("torch", "geoopt", "pymanopt", "scipy", "geomstats", "lightly")


def newest(results: Path, case: str) -> list[dict[str, Any]]:
    """The newest record of a case per device, by date."""
    records = sorted((json.loads(path.read_text()) for path in results.glob(f"{case}-*.json")), key=lambda r: r["date"])
    return list({record["device"]: record for record in records}.values())


def markdown(case: ModuleType, results: Path) -> str:
    """The table of a case, with dates and versions of the measurements."""
    records = newest(results, case.NAME)
    lines = case.markdown(records)
    stamps = sorted(
        {
            ", ".join([r["date"][:10], *(f"{name} {r['versions'][name]}" for name in SHOWN if name in r["versions"])])
            for r in records
        }
    )
    return "\n".join([*lines, *(["", "Measured " + "; ".join(stamps) + "."] if stamps else [])])


def rewrite(case: ModuleType, root: Path, results: Path) -> None:
    """Put the table between the markers of a case on its page. Raises ValueError naming a marker that is missing."""
    page = root / case.PAGE
    text = page.read_text()
    start, end = f"<!-- benchmark:{case.NAME} -->", f"<!-- /benchmark:{case.NAME} -->"
    for marker in (start, end):
        if marker not in text:
            raise ValueError(f"{page.name} has no line {marker}")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    new = f"{before}{start}\n{markdown(case, results)}\n{end}{after}"
    if new != text:
        page.write_text(new)


def save(record: dict[str, Any], folder: Path) -> Path:
    """Write a record as CASE-DEVICETYPE.json: the newest run on a kind of device replaces the one before."""
    path = folder / f"{record['case']}-{record['device_type']}.json"
    write(path, record)
    return path
