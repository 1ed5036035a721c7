"""A training on two processes, of which the last is killed before a step at its first start."""

import os
import shlex
import signal
import warnings
from pathlib import Path
from unittest import mock

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from grassmann_ssl.data.batches import Views
from tests.commands import command
from tests.processes import preload


def trains(step, line, said):
    """What each process does; it leaves what it writes to stderr in a file of `said`."""
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    start = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if last and start == "0":
        of_step = Views.__call__

        def dies(self, index, part=0):
            if index == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return of_step(self, index, part)

        Views.__call__ = dies
    done = command(*shlex.split(line))
    Path(said, f"{os.environ['RANK']}-{start}").write_text(done.stderr)
    if done.returncode:
        raise SystemExit(done.returncode)


def two_processes(line, step, restarts, said):
    """Whether they come to their end, started again so often, as torchrun starts them; from a process that has done the imports."""
    preload()
    said.mkdir()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=restarts, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=str(said), start_method="forkserver",
    )  # fmt: skip
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        with mock.patch.dict(os.environ), warnings.catch_warnings(action="ignore"):
            elastic_launch(config, trains)(step, line, str(said))
    except ChildFailedError:
        return False
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return True
