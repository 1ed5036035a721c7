"""Check a built site without a network: every link and anchor leads somewhere, and nothing is loaded from elsewhere."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

TAG = re.compile(r"<(a|link|script|img|source|iframe|object|video|audio)\b[^>]*?\b(?:href|src|data)=\"([^\"]*)\"")
IDS = re.compile(r'\bid="([^"]+)"')
LOADED = re.compile(r"url\(\s*[\"']?((?:https?:)?//[^)]+)")


def problems(site: Path) -> list[str]:
    """What is wrong, a line each."""
    pages = {path.resolve(): path.read_text() for path in site.rglob("*.html")}
    ids = {path: set(IDS.findall(text)) for path, text in pages.items()}
    found = []
    for path, text in pages.items():
        name = path.relative_to(site.resolve())
        for tag, address in dict.fromkeys(TAG.findall(text)):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if tag != "a" and parts.scheme != "data":
                    found.append(f"{name}: {tag} loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name}: {address} is not there")
            elif tag == "a" and parts.fragment and target in ids and unquote(parts.fragment) not in ids[target]:
                found.append(f"{name}: {address} has no such anchor")
    for path in site.rglob("*.css"):
        found += [f"{path.relative_to(site)}: loads {address}" for address in LOADED.findall(path.read_text())]
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(bool(wrong))
