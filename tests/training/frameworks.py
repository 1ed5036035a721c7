"""Small trainings in Lightning and in the Trainer of transformers, that hold a layer on a manifold."""

import warnings

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from grassmann_ssl import JointEmbedding, objective
from grassmann_ssl.training.lightning import LightningConstraint  # noqa: F401
from grassmann_ssl.training.transformers import TrainerConstraint  # noqa: F401

X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def method():
    torch.manual_seed(0)
    return JointEmbedding(nn.Sequential(nn.Linear(12, 16), nn.ReLU()), nn.Linear(16, 4), objective("nt_xent").loss)


class Module(pl.LightningModule):
    def __init__(self, change=lambda model: None, optimizer=None):
        super().__init__()
        self.method, self.optimizer = method(), optimizer
        change(self.method)

    def training_step(self, batch, index):
        return self.method(*batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def fit(module, callback, epochs, **options):
    """Train a LightningModule; the trainer."""
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[callback], **QUIET)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=Warning, module="lightning")
        trainer.fit(module, DataLoader(TensorDataset(X, X + 0.1), 16), **options)
    return trainer


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.method = method()

    def forward(self, x, y):
        return {"loss": self.method(x, y)}


def trainer_for(folder, *callbacks, **options):
    settings = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=16, use_cpu=True, report_to="none", save_steps=2,
        logging_steps=100, disable_tqdm=True, dataloader_pin_memory=False, weight_decay=0.01,
    )  # fmt: skip
    data = [{"x": x, "y": x + 0.1} for x in X]
    trainer = Trainer(WithLoss(), settings, train_dataset=data, callbacks=list(callbacks), **options)
    trainer.remove_callback(PrinterCallback)
    return trainer
