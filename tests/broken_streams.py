"""Command lines with streams that fail: `python -m tests.broken_streams '[[OUT, ERR, [ARGUMENT, ...]], ...]'` prints their exit codes.

Each is a fork of this process, which has imported all, and ends as any Python does. OUT and ERR: "closed", "full", "broken" (a pipe that
nobody reads) or the name of a file.
"""

import json
import os
import sys

import pandas  # noqa: F401  pyarrow imports it, and every optimizer of torch imports dynamo: three seconds of each process
import torch._dynamo  # noqa: F401

import grassmann_ssl.experiments
import grassmann_ssl.run  # noqa: F401
from grassmann_ssl import cli
from grassmann_ssl.report import drawing


def opened(kind):
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    if kind == "broken":
        read, write = os.pipe()
        os.close(read)
        return write
    return os.open(kind, os.O_WRONLY | os.O_CREAT)


def stream(number, kind, errors):
    """The stream that Python opens at its start, in the C locale."""
    if kind == "closed":
        os.close(number)
        return None
    at = opened(kind)
    os.dup2(at, number)
    os.close(at)
    return open(number, "w", encoding="ascii", errors=errors, buffering=1 if number == 2 else -1, closefd=False)


if __name__ == "__main__":
    drawing.drawn = lambda figure: drawing.Drawing("", (), 1)  # it is no matter here what is in the figures
    codes = []
    for out, err, arguments in json.loads(sys.argv[1]):
        child = os.fork()
        if not child:
            sys.argv = ["grassmann-ssl", *arguments]
            sys.stderr = sys.__stderr__ = stream(2, err, "backslashreplace")
            sys.stdout = sys.__stdout__ = stream(1, out, "strict")
            cli.main()
            sys.exit()
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))
