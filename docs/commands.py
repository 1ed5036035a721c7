"""The help of every command as a page: `{commands}` in a page of docs/ is replaced by it when the site is built."""

import io
import os
import re
import sys
import textwrap
from contextlib import redirect_stdout
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from grassmann_ssl.cli import main

WIDTH = 90
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
GROUP = re.compile(r"^(\w.*):\n((?:  .*\n?)+)", re.MULTILINE)


def printed(*arguments):
    """What `grassmann-ssl` prints for these arguments, as wide as the page."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # a help has lines around it where they can be written
    with (
        mock.patch.object(sys, "argv", ["grassmann-ssl", *arguments]),
        mock.patch.dict(os.environ, COLUMNS=str(WIDTH)),
        redirect_stdout(out),
    ):
        try:
            main()
        except SystemExit as end:
            if end.code not in (0, None):
                raise RuntimeError(f"grassmann-ssl {' '.join(arguments)} ended with {end.code}") from None
    out.seek(0)
    lines = COLOURS.sub("", out.read()).rstrip().splitlines()
    return "\n".join(textwrap.fill(line, WIDTH) if len(line) > WIDTH else line for line in lines)


def rooms():
    """The names of the commands by the titles of the overview."""
    return {
        title: [line.split()[0] for line in lines.splitlines()] for title, lines in GROUP.findall(printed("--help"))
    }


HELP = {title: {name: printed(name, "--help") for name in names} for title, names in rooms().items()}
"""before the API is read, which takes the types of settings apart"""


class Commands(SphinxDirective):
    """A section for every group of commands, and in it one for every command, with its help."""

    def run(self):
        self.env.note_reread()  # the help changes where the page does not
        found = []
        for title, helps in HELP.items():
            group = nodes.section("", nodes.title("", title), ids=[nodes.make_id(title)])
            for name, text in helps.items():
                group += nodes.section(
                    "", nodes.title("", name), nodes.literal_block(text, text), ids=[nodes.make_id(name)]
                )
            found.append(group)
        return found
