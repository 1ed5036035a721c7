"""Training loops (full batch, encoders, many small systems), recorders, checkpoints, schedules, and processes."""

from grassmann_ssl.training.encoders import train_encoder
from grassmann_ssl.training.full_batch import ARMS, train_full_batch
from grassmann_ssl.training.many_systems import Simulation, simulate
from grassmann_ssl.training.recorder import Trajectory

__all__ = ["ARMS", "Simulation", "Trajectory", "simulate", "train_encoder", "train_full_batch"]
