"""`python -m tests.dying STEP LINE`: a command for torchrun, whose last process is killed before a step at its first start."""

import os
import shlex
import signal
import sys

from grassmann_ssl.data.batches import Views
from tests.commands import command

if __name__ == "__main__":
    step, line = int(sys.argv[1]), sys.argv[2]
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        of_step = Views.__call__

        def dies(self, index, part=0):
            if index == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return of_step(self, index, part)

        Views.__call__ = dies
    done = command(*shlex.split(line))
    for stream, text in ((sys.stdout, done.stdout), (sys.stderr, done.stderr)):
        stream.write(text)
        stream.flush()
    # Torch's own threads are not always joined at the end: about one process in twenty aborts in C++ after its last line of Python.
    os._exit(done.returncode)
