"""Training loops (full batch, encoders, many small systems), recorders, checkpoints, schedules, and processes."""

import grassmann_ssl.manifolds  # noqa: F401  before any import of geoopt, whose warnings it silences
from grassmann_ssl.interrupt import Interrupted
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.encoders import train_encoder
from grassmann_ssl.training.full_batch import ARMS, train_full_batch
from grassmann_ssl.training.many_systems import Simulation, simulate
from grassmann_ssl.training.recorder import Trajectory

__all__ = [
    "ARMS",
    "Interrupted",
    "Simulation",
    "Trajectory",
    "load_checkpoint",
    "save_checkpoint",
    "simulate",
    "train_encoder",
    "train_full_batch",
]
