"""Write the overviews of the site from what the pages hold: `docs/gallery.md` from their pictures, `docs/benchmarks.md` from the cases."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"`((?:make|python -m benchmarks|grassmann-ssl) [^`\n]+)`|^((?:\S+/)?grassmann-ssl .+)$", re.MULTILINE
)


@dataclass(frozen=True)
class Section:
    """A heading of a page of docs/, its slug, and the text below it."""

    page: str
    heading: str
    text: str

    @property
    def address(self) -> str:
        """Where it is, from another page of docs/."""
        slug = re.sub(r"[^\w -]", "", self.heading.lower()).replace(" ", "-")
        return f"{self.page}#{slug}"


def sections(root: Path) -> list[Section]:
    """Those of all pages that are written by hand."""
    found = []
    for path in sorted((root / "docs").glob("*.md")):
        text = FENCE.sub(lambda fence: fence[0].replace("\n#", "\n "), path.read_text())
        parts = re.split(r"^#+ (.*)\n", text, flags=re.MULTILINE)
        found += [Section(path.name, *pair) for pair in zip(parts[1::2], parts[2::2], strict=True)]
    return [one for one in found if one.page not in ("gallery.md", "benchmarks.md")]


def gallery(root: Path) -> str:
    """Every picture with its heading and the nearest command of its section. Raises ValueError for a picture without one."""
    out = []
    for section in sections(root):
        whole = section.text.replace("\\\n", "")
        for picture in PICTURE.finditer(whole):
            text, file = picture.groups()
            apart = {
                max(one.start() - picture.end(), picture.start() - one.end()): one for one in COMMAND.finditer(whole)
            }
            command = apart[min(apart)] if apart else None
            if command is None:
                raise ValueError(f"docs/{section.address} says of {file} not by which command it is made")
            line = re.sub(r" {2,}", " ", command[1] or command[2])
            out += [f"## {section.heading}", "", f"![{text}]({file})", "", "```", line, "```", ""]
            out += [f"[{text}]({section.address}).", ""]
    return "\n".join(out)


def cases(root: Path) -> str:
    """Every case with its first line and the section of its table."""
    from benchmarks.__main__ import CASES

    place = {}
    for section in sections(root):
        place |= dict.fromkeys(re.findall(r"^<!-- benchmark:(\w+) -->", section.text, re.MULTILINE), section)
    lines = ["| case | what is measured | table |", "|---|---|---|"]
    for name, case in CASES.items():
        where = f"[{place[name].heading}]({place[name].address})" if name in place else "[README](../README.md#speed)"
        lines.append(f"| `{name}` | {case.__doc__.splitlines()[0]} | {where} |")
    return "\n".join(lines) + "\n"


def rewrite(root: Path) -> None:
    """Replace what stands between the markers of both pages."""
    for page, content in (("gallery", gallery(root)), ("benchmarks", cases(root))):
        path = root / "docs" / f"{page}.md"
        start, end = "<!-- written by docs/overview.py -->\n", "<!-- /written -->"
        before, rest = path.read_text().split(start)
        new = f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"
        if new != path.read_text():
            path.write_text(new)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    rewrite(ROOT)
