"""Functions in several processes."""

import multiprocessing

import torch.multiprocessing as mp

# The imports of the tests that use processes, those of torch's optimizers (dynamo) and of pyarrow (pandas) among them: they take seven
# seconds, in each process that is not forked from one that has done them.
IMPORTS = ("pytest", "geoopt", "pandas", "torch._dynamo", "torch.distributed.fsdp", "grassmann_ssl.nn", "grassmann_ssl.optim",
           "grassmann_ssl.objectives", "grassmann_ssl.training.torchrun")  # fmt: skip


def preload():
    """Processes of the method forkserver come from one that has done the imports and nothing else: no state of this one reaches them."""
    multiprocessing.set_forkserver_preload(list(IMPORTS))


def start(function, arguments, world):
    """Run function(rank, *arguments) in as many processes; any failure in one of them is raised here."""
    preload()
    mp.start_processes(function, arguments, nprocs=world, start_method="forkserver")
