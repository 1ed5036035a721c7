"""Figures and the single-file HTML report of a run."""

from grassmann_ssl.report.folder import write_run
from grassmann_ssl.report.terminal import summary

__all__ = ["summary", "write_run"]
