"""Closed forms and ODEs that predict self-supervised learning of linear models. numpy and scipy only; never trains."""

from theory import constrained, losses, stepwise

__all__ = ["constrained", "losses", "stepwise"]
