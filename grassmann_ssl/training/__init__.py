"""The training loop, the recorder of what it passes through, and the run folder."""

from grassmann_ssl.training.loop import ARMS, Trajectory, train
from grassmann_ssl.training.runs import ConfigError, RunFolder

__all__ = ["ARMS", "ConfigError", "RunFolder", "Trajectory", "train"]
