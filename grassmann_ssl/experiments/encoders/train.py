"""Train an encoder, constrained or not, on two views of images, and judge what it learned."""

import torch

from grassmann_ssl.data.batches import load_split
from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.fitting import fit
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.runs import Outcome, Progress, Run, setting
from grassmann_ssl.training.torchrun import processes


def train(config: TrainConfig, progress: Progress | None = None) -> Outcome | None:
    """Train, record, judge and report; under torchrun all processes train together, the first one writes, and the others return None.

    Raises ConfigError before any training for settings that cannot be run, and `Diverged` where the loss is not finite: the checkpoint,
    if one is kept, is then the last good one. An interrupt (Ctrl-C) keeps what was done so far.
    """
    with processes(config.device) as process:
        run = Run(config) if process.first else None
        generator = torch.Generator().manual_seed(config.seed)
        with setting("data"):
            split = load_split(config.data, generator).to(process.device)
        tick = progress(config.steps) if progress and process.first else None
        trained = fit(config, split, process, tick)
        if run is None:
            return None
        judged = evaluation.judge(config, trained.arm, split)
        record, metrics, arrays = evaluation.collect(config, trained, judged)
        return run.finish(evaluation.findings(config, record), record, metrics, arrays)
