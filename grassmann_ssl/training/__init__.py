"""The training loops, the engine for thousands of small systems, recorders, checkpoints, and processes."""

from grassmann_ssl.training.loop import ARMS, Trajectory, train
from grassmann_ssl.training.pretrain import pretrain
from grassmann_ssl.training.simulation import Simulation, simulate

__all__ = ["ARMS", "Simulation", "Trajectory", "pretrain", "simulate", "train"]
