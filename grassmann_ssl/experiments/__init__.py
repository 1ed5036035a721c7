"""One file per scientific question: a typed config and a function from it to an outcome. `grassmann_ssl.run` writes and draws it."""

from collections.abc import Callable, Iterable

import grassmann_ssl.manifolds  # noqa: F401  before any import of geoopt, whose warnings it silences
from grassmann_ssl.experiments.encoders import (
    audit,
    compare_encoders,
    directpred_table,
    stepwise_deep,
    train,
    train_config,
)
from grassmann_ssl.experiments.encoders.trained_encoder import load_encoder
from grassmann_ssl.experiments.linear import collapse, compare, packed, stepwise
from grassmann_ssl.experiments.networks import kernel_change, ntk, width
from grassmann_ssl.experiments.phase import (
    alignment,
    basin,
    commutator,
    directpred,
    ema,
    fixed_points,
    flow_fields,
    portraits,
    sweeps,
    symmetry,
)
from grassmann_ssl.runs import Outcome, RunConfig

EXPERIMENTS: dict[type[RunConfig], Callable[..., Outcome | None]] = {
    compare.CompareConfig: compare.compare,
    train_config.TrainConfig: train.train,
    compare_encoders.CompareEncodersConfig: compare_encoders.compare_encoders,
    directpred_table.DirectPredTableConfig: directpred_table.directpred_table,
    stepwise_deep.StepwiseDeepConfig: stepwise_deep.stepwise_deep,
    stepwise.StepwiseConfig: stepwise.stepwise,
    alignment.AlignmentConfig: alignment.alignment,
    portraits.PortraitsConfig: portraits.portraits,
    fixed_points.FixedPointsConfig: fixed_points.fixed_points,
    sweeps.SweepsConfig: sweeps.sweeps,
    ema.EmaConfig: ema.ema,
    symmetry.SymmetryConfig: symmetry.symmetry,
    commutator.CommutatorConfig: commutator.commutator,
    flow_fields.FlowFieldsConfig: flow_fields.flow_fields,
    basin.BasinConfig: basin.basin,
    directpred.DirectPredConfig: directpred.directpred,
    width.WidthConfig: width.width,
    kernel_change.KernelChangeConfig: kernel_change.kernel_change,
    ntk.NtkConfig: ntk.ntk,
    collapse.CollapseConfig: collapse.collapse,
    audit.AuditConfig: audit.audit,
}

# Experiments whose runs are trained together, as one tensor program: from configs to what runs each of them, in their order.
TOGETHER: dict[type[RunConfig], Callable[..., Iterable[Callable[..., Outcome | None]]]] = {
    compare.CompareConfig: packed.packed,
}

__all__ = [
    "EXPERIMENTS",
    "TOGETHER",
    "alignment",
    "audit",
    "basin",
    "collapse",
    "commutator",
    "compare",
    "compare_encoders",
    "directpred",
    "directpred_table",
    "ema",
    "fixed_points",
    "flow_fields",
    "kernel_change",
    "load_encoder",
    "ntk",
    "packed",
    "portraits",
    "stepwise",
    "stepwise_deep",
    "sweeps",
    "symmetry",
    "train",
    "train_config",
    "width",
]
