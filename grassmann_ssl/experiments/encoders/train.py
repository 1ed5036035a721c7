"""Train an image encoder on two views, with or without a constraint on its weights, and evaluate its representation."""

from dataclasses import asdict
from functools import partial

import torch

from grassmann_ssl.data.batches import load_split
from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.fitting import config_size, fit, images_finding
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.experiments.encoders.trained_encoder import TrainedEncoder
from grassmann_ssl.runs import Outcome, Progress, Run, RunFolder, setting
from grassmann_ssl.runs.folder import CHECKPOINT
from grassmann_ssl.training.torchrun import processes


def train(config: TrainConfig, progress: Progress | None = None, folder: RunFolder | None = None) -> Outcome | None:
    """Train, record and evaluate. Under torchrun training is data-parallel, and all processes but the first return None.

    The folder, if one is given, keeps a checkpoint. Raises ConfigError before training for settings that cannot be run, and Diverged for a
    loss that is not finite; the checkpoint is then the last finite one. Ctrl-C ends the training early, and what was recorded and trained
    is kept.
    """
    with processes(config.device) as process:
        run = Run(config)
        generator = torch.Generator().manual_seed(config.seed)
        with setting("data"):
            split = load_split(
                config.data, generator, progress if process.first else None, **asdict(config.data_options)
            ).to(process.device)
        tick = progress(config.steps) if progress and process.first else None
        checkpoint = partial(folder.keep, CHECKPOINT) if folder else lambda: None
        with run.logs.of() as log:
            trained = run.keep(fit, config, split, process, tick, checkpoint, log)
        if not process.first:
            return None
        if trained.start:
            run.resumed = f"at step {trained.start} of {config.steps}"
        judged = evaluation.judge(config, trained.arm, split)
        record, metrics, arrays = evaluation.collect(config, trained, judged)
        record["input"] = {"channels": split.train.shape[1], "size": config_size(split)}
        files = {"weights": TrainedEncoder(trained.arm.method).weights()}
        if config.embeddings:
            files["embeddings"] = evaluation.stored_embeddings(trained.arm, split)
        findings = [*evaluation.findings(config, record), images_finding(split)]
        return run.finish(findings, record, metrics, arrays, files)
