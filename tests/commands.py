"""The command line in this process: what `grassmann-ssl ARGUMENTS` prints, and the code that it ends with."""

import contextlib
import io
import sys
from typing import NamedTuple
from unittest import mock

from grassmann_ssl import cli


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    code = None
    with mock.patch.object(sys, "argv", ["grassmann-ssl", *map(str, arguments)]):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
    return Done(code or 0, out.getvalue(), err.getvalue())
