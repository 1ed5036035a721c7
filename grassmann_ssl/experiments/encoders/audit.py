"""The collapse audit of embeddings in a file, and of an audit made in Python, as the outcome of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from grassmann_ssl.audit import KINDS, Audit, Rule, audit_embeddings
from grassmann_ssl.audit.record import restored, stored
from grassmann_ssl.audit.rows import as_tensor
from grassmann_ssl.audit.words import CLASS_HEADER, class_cells, number_text
from grassmann_ssl.data.array_files import NAMED, file_and_name, load_array, load_column
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, Table, choice, setting, ticking

TOKENS = ("none", "mean", "rows")
NONFINITE = ("refuse", "drop")
GATES = (*KINDS, "undecided", "any")


@dataclass(frozen=True)
class RuleOptions(Rule):
    """Thresholds of the verdict, each on a number of the population."""

    PREFIX: ClassVar[str] = "rule"
    used: float = Rule.used
    """soft dimensional collapse: share of dimensions used, (PR - 1)/(D - 1), below it"""
    live: float = Rule.live
    """hard dimensional collapse: fewer live dimensions than this share of D"""
    dead: float = Rule.dead
    """a dimension is live if its eigenvalue is at least this share of the largest"""
    spread: float = Rule.spread
    """directional collapse: variance of z/||z|| below it"""
    within: float = Rule.within
    """collapse of a class: its variance below this share of that of all rows"""
    complete: float = Rule.complete
    """complete collapse: variance per dimension below this share of --input-variance; always where there is none"""

    def __post_init__(self) -> None:
        """Nothing is checked here, where tyro would box the message: `AuditConfig` does."""

    def checked(self) -> Rule:
        """The rule of these thresholds. Raises ConfigError for one outside (0, 1)."""
        with setting():
            return Rule(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class AuditConfig(RunConfig):
    """Did the embeddings in a file collapse, how, and how sure is that? Exit code 3 where `--fail-on` holds."""

    NAME: ClassVar[str] = "audit"
    EXAMPLE: ClassVar[str] = "audit embeddings.npy --labels labels.npy --out runs/audit"
    file: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="FILE")] = None
    """embeddings, a row each: .npy, .npz, .safetensors, or .parquet and .csv with a column for each dimension, or .parquet with a column of
    lists"""
    array: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """name of the array in FILE, and in the file of positives, where they are .npz or .safetensors with several, or of the column of lists
    where they are .parquet with several columns"""
    positive: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """file of the same rows in another view: alignment, uniformity, LiDAR. FILE:NAME where it holds several arrays"""
    labels: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """file of one class for each row, an integer or a text. FILE:NAME where it holds several arrays or columns"""
    groups: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """file of one group for each row; rows of a group (views, tokens, frames) are not independent. FILE:NAME as for labels"""
    directions: bool = False
    """judge z / ||z||, for losses that see cosines only"""
    tokens: Annotated[str, choice(TOKENS)] = "none"
    """for rows (N, T, D): mean of the T tokens of a sample, or rows, each token a row and the sample its group"""
    nonfinite: Annotated[str, choice(NONFINITE)] = "refuse"
    """rows that are not finite: refuse the file, or drop and count them"""
    input_variance: float | None = None
    """mean variance per dimension of the encoder's inputs: complete collapse relative to it"""
    confidence: float = 0.95
    """confidence of the intervals"""
    rule: RuleOptions = field(default_factory=RuleOptions)
    fail_on: tuple[Annotated[str, choice(GATES)], ...] = ()
    """kinds of collapse that end the command with exit code 3; any: every kind; undecided: a question that is open"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_one_of("tokens", TOKENS)
        self.need_one_of("nonfinite", NONFINITE)
        self.need_one_of("fail_on", GATES)
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must be between 0 and 1, got {self.confidence}")
        if self.input_variance is not None:
            self.need("input_variance", above=0)
        self.rule.checked()


def audit(config: AuditConfig, progress: Progress | None = None) -> Outcome:
    """Audit the rows of the files. Raises ConfigError, one line, for a file that cannot be read and for rows that cannot be judged."""
    run = Run(config)
    if config.file is None:
        raise ConfigError("file: give the file of the embeddings, as in `grassmann-ssl audit embeddings.npy`")
    tick = ticking(progress, 2)
    with setting("file"):
        rows = as_tensor(load_array(config.file, config.array), "z").to(run.device)
    given: dict[str, Any] = {}
    if config.positive is not None:
        path, name = file_and_name(config.positive)
        kind, same = (Path(one).suffix.lower() for one in (path, config.file))
        if name is None and (kind in NAMED or kind == same):
            name = config.array
        with setting("positive"):
            given["z_positive"] = as_tensor(load_array(path, name), "z_positive").to(run.device)
    for one in ("labels", "groups"):
        text: str | None = getattr(config, one)
        if text is not None:
            with setting(one):
                given[one] = load_column(*file_and_name(text))
    tick("reading")
    with setting(config.file):
        found = audit_embeddings(
            rows,
            directions=config.directions,
            confidence=config.confidence,
            rule=config.rule.checked(),
            input_variance=config.input_variance,
            tokens=None if config.tokens == "none" else config.tokens,
            nonfinite=config.nonfinite,
            **given,
        )
    tick("auditing")
    return _outcome(found, run, config.fail_on)


def outcome_of(audit: Audit, folder: Path) -> Outcome:
    """The outcome of an audit that was made in Python, for a run folder."""
    rule = RuleOptions(**asdict(audit.rule))
    config = AuditConfig(out=folder, directions=audit.directions, confidence=audit.confidence, rule=rule)
    return _outcome(audit, Run(config), ())


def audit_of(outcome: Outcome) -> Audit:
    """The audit of an outcome. Raises ConfigError for that of another experiment."""
    if outcome.name != AuditConfig.NAME:
        raise ConfigError(f"the run is of {outcome.name!r}, not an audit")
    return restored(outcome.record, outcome.arrays)


def _outcome(audit: Audit, run: Run, gates: tuple[str, ...]) -> Outcome:
    record, arrays = stored(audit)
    of = f"{audit.confidence:.4g} interval"
    findings = [Finding("verdict", measured=audit.judgement), Finding("judged", measured=audit.judged)]
    findings += [
        Finding(f"{one.name.replace('_', ' ')} ({one.meaning})", measured=number_text(one)) for one in audit.numbers
    ]
    if audit.classes:
        cells, left = class_cells(audit.classes, audit.verdict.classes)
        if left:
            cells.append((f"and {left:,} more", *[""] * (len(CLASS_HEADER) - 1)))
        record["table"] = asdict(
            Table("Classes", CLASS_HEADER, tuple(cells), f"Dimensions used within a class, with {of}.")
        )
    metrics = {
        name: np.array([getattr(one, name) for one in audit.numbers], dtype=kind)
        for name, kind in (("name", str), ("value", float), ("low", float), ("high", float), ("sample", float))
    }
    met = [gate for gate in gates if _holds(gate, audit)]
    record["failed"] = f"--fail-on {' '.join(met)}: {audit.judgement}" if met else None
    return run.finish(findings, record, metrics, arrays)


def _holds(gate: str, audit: Audit) -> bool:
    if gate == "undecided":
        return bool(audit.verdict.open)
    return bool(audit.kinds) if gate == "any" else gate in audit.kinds
