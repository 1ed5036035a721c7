"""One file per scientific question: a typed config and a function that runs it. Command line, notebooks and tests call the same."""

from grassmann_ssl.experiments.compare import CompareConfig, compare

__all__ = ["CompareConfig", "compare"]
