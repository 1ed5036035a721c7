"""Spectra of weights and embeddings, effective ranks, and the collapse verdict."""

from grassmann_ssl.metrics.collapse import COLLAPSE_RULE, CollapseVerdict, collapse_verdict
from grassmann_ssl.metrics.spectra import effective_rank, participation_ratio

__all__ = ["COLLAPSE_RULE", "CollapseVerdict", "collapse_verdict", "effective_rank", "participation_ratio"]
