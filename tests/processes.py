"""Functions in several processes."""

import multiprocessing

import torch.multiprocessing as mp

# The imports of the tests that use processes: they take four seconds, in each process that is not forked from one that has done them.
IMPORTS = ("pytest", "geoopt", "torch.distributed.fsdp", "grassmann_ssl.nn", "grassmann_ssl.optim", "grassmann_ssl.objectives",
           "grassmann_ssl.training.torchrun")  # fmt: skip


def start(function, arguments, world):
    """Run function(rank, *arguments) in as many processes; any failure in one of them is raised here.

    They are forked from a process that has done the imports and nothing else, so that no state of this one reaches them.
    """
    multiprocessing.set_forkserver_preload(list(IMPORTS))
    mp.start_processes(function, arguments, nprocs=world, start_method="forkserver")
