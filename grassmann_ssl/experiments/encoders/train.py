"""Train an encoder on two views, with or without a constraint on its weights, and evaluate its representation."""

from functools import partial

from grassmann_ssl.experiments.encoders import evaluation
from grassmann_ssl.experiments.encoders.fitting import fit
from grassmann_ssl.experiments.encoders.material import material_of
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.experiments.encoders.trained_encoder import Pretrained, TrainedEncoder, largest_of
from grassmann_ssl.runs import Progress, Run, RunFolder
from grassmann_ssl.runs.folder import CHECKPOINT
from grassmann_ssl.training.torchrun import processes


def train(config: TrainConfig, progress: Progress | None = None, folder: RunFolder | None = None) -> Pretrained | None:
    """Train, record and evaluate. Under torchrun training is data-parallel, and all processes but the first return None.

    The folder, if one is given, keeps a checkpoint. Raises ConfigError before training for settings that cannot be run, and Diverged for a
    loss that is not finite; the checkpoint is then the last finite one. Ctrl-C ends the training early, and what was recorded and trained
    is kept.
    """
    with processes(config.device) as process:
        run = Run(config)
        material = material_of(config, process, progress if process.first else None)
        tick = progress(config.steps) if progress and process.first else None
        checkpoint = partial(folder.keep, CHECKPOINT) if folder else lambda: None
        with run.logs.of() as log:
            trained = run.keep(fit, config, material, process, tick, checkpoint, log)
        if not process.first:
            return None
        if trained.start:
            run.resumed = f"at step {trained.start} of {config.steps}"
        judged = evaluation.judge(trained.arm, material)
        record, metrics, arrays = evaluation.collect(config, trained, judged)
        example = material.example
        record["input"] = {"shape": list(example.shape[1:]), "dtype": str(example.dtype).removeprefix("torch.")}
        record["input"]["largest"] = largest = largest_of(example)
        record["own"] = config.all_own
        record["batch"] = material.batch(config)
        model = TrainedEncoder(trained.arm.method, largest)
        files = {"weights": model.weights()}
        if config.embeddings:
            files["embeddings"] = evaluation.stored_embeddings(trained.arm, material)
        findings = [*evaluation.findings(config, record), material.finding()]
        outcome = run.finish(findings, record, metrics, arrays, files)
        return Pretrained(**vars(outcome), model=model.eval(), audit=judged.audit)
