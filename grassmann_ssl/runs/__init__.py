"""A run as a value: its settings, its result, and the folder that holds it. Knows no question and no figure."""

from grassmann_ssl.runs.config import ConfigError, RunConfig, choice, device_of, setting
from grassmann_ssl.runs.folder import RunFolder, unfinished
from grassmann_ssl.runs.load import StoredRun, load_runs, stored_runs
from grassmann_ssl.runs.logs import LoggedConfig, Logs, Tell
from grassmann_ssl.runs.parts import Part, Parts
from grassmann_ssl.runs.record import Finding, Outcome, Progress, Run, Table, Tick, headings, joined, ticking

__all__ = [
    "ConfigError",
    "Finding",
    "LoggedConfig",
    "Logs",
    "Outcome",
    "Part",
    "Parts",
    "Progress",
    "Run",
    "RunConfig",
    "RunFolder",
    "StoredRun",
    "Table",
    "Tell",
    "Tick",
    "choice",
    "device_of",
    "headings",
    "joined",
    "load_runs",
    "setting",
    "stored_runs",
    "ticking",
    "unfinished",
]
