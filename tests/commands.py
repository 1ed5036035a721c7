"""The command line in this process: what `grassmann-ssl ARGUMENTS` prints, and the code that it ends with.

`python -m tests.commands LINE LINE ...` runs several command lines one after the other, for torchrun to start.
"""

import contextlib
import io
import os
import shlex
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


if __name__ == "__main__":
    first = int(os.environ.get("MASTER_PORT", "0"))
    for number, line in enumerate(sys.argv[1:], 1):
        # Each line meets the other processes anew, in a store of its own, at a port that the system gives to nobody unasked.
        port = 20_000 + (first + 97 * number) % 10_000
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        done = command(*shlex.split(line))
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        if done.returncode:
            sys.exit(done.returncode)
