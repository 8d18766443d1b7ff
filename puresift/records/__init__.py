"""Records during a run: sums, audit logs and run folders."""

from puresift.records.audit import AuditLog
from puresift.records.logs import read_log
from puresift.records.meters import Meter, summarize
from puresift.records.recorder import Recorder

__all__ = ["AuditLog", "Meter", "Recorder", "read_log", "summarize"]
