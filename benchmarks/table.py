"""The README's table, from the newest result of each device."""

import json
from pathlib import Path

from benchmarks import momentum_step
from benchmarks.harness import write

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def newest(results: Path, case: str) -> list[dict]:
    """The newest record of a case per device, by date."""
    records = sorted((json.loads(path.read_text()) for path in results.glob(f"{case}-*.json")), key=lambda r: r["date"])
    return list({record["device"]: record for record in records}.values())


def markdown(records: list[dict]) -> str:
    """Ratios as median [quartiles], one row per device and shape."""
    peers = [*momentum_step.PEERS, momentum_step.PRODUCTS]
    lines = [
        "| n × p | device | faster than geoopt EuclideanStiefel | faster than geoopt Stiefel | time over its own products |"
    ]
    lines.append("|---|---|---|---|---|")
    for record in records:
        for row in record["records"]:
            *batch, n, p = row["shape"]
            shape = f"{batch[0]} matrices of {n} × {p}" if batch else f"{n} × {p}"
            cells = []
            for peer in peers:
                low, middle, high = (row["ratio_to_ours"][peer][key] for key in ("low", "median", "high"))
                if peer == momentum_step.PRODUCTS:  # ours over products, where the record holds products over ours
                    low, middle, high = 1 / high, 1 / middle, 1 / low
                cells.append(f"{middle:.3g}× [{low:.3g}, {high:.3g}]")
            lines.append(f"| {shape} | {record['device']} | " + " | ".join(cells) + " |")
    if records:
        stamps = sorted(
            {f"{r['date'][:10]}, torch {r['versions']['torch']}, geoopt {r['versions']['geoopt']}" for r in records}
        )
        lines += ["", "Measured " + "; ".join(stamps) + "."]
    return "\n".join(lines)


def rewrite(readme: Path, results: Path, case: str) -> None:
    """Put the table between the markers of a case. Raises ValueError naming a marker that is missing."""
    text = readme.read_text()
    start, end = f"<!-- benchmark:{case} -->", f"<!-- /benchmark:{case} -->"
    for marker in (start, end):
        if marker not in text:
            raise ValueError(f"{readme.name} has no line {marker}")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    new = f"{before}{start}\n{markdown(newest(results, case))}\n{end}{after}"
    if new != text:
        readme.write_text(new)


def save(record: dict, folder: Path) -> Path:
    """Write a record as CASE-DEVICETYPE.json: the newest run on a kind of device replaces the one before."""
    path = folder / f"{record['case']}-{record['device_type']}.json"
    write(path, record)
    return path
