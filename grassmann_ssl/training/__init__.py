"""The training loops, the engine for thousands of small systems, recorders, checkpoints, and processes."""

import grassmann_ssl.manifolds  # noqa: F401  before any import of geoopt, whose warnings it silences
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.loop import ARMS, Trajectory, train
from grassmann_ssl.training.pretrain import pretrain
from grassmann_ssl.training.simulation import Simulation, simulate

__all__ = ["ARMS", "Simulation", "Trajectory", "load_checkpoint", "pretrain", "save_checkpoint", "simulate", "train"]
