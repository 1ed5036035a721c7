"""The collapse audit: did embeddings collapse, how, and how sure is that; right with any number of rows."""

from grassmann_ssl.audit.embeddings import audit_embeddings
from grassmann_ssl.audit.evidence import ClassRow
from grassmann_ssl.audit.judgement import Judgement
from grassmann_ssl.audit.monitor import CollapseMonitor, CollapseWarning
from grassmann_ssl.audit.numbers import Number
from grassmann_ssl.audit.result import Audit, CollapseError
from grassmann_ssl.audit.rule import KINDS, Rule, Verdict, judge

__all__ = [
    "KINDS",
    "Audit",
    "ClassRow",
    "CollapseError",
    "CollapseMonitor",
    "CollapseWarning",
    "Judgement",
    "Number",
    "Rule",
    "Verdict",
    "audit_embeddings",
    "judge",
]
