"""Sweeps: a study file becomes plans and seeds, their shared phases run once, on this machine or on a cluster."""

from pruning.study.sweep.expansion import expand, missing
from pruning.study.sweep.local import LocalExecutor
from pruning.study.sweep.phase_graph import Graph, build, write_record
from pruning.study.sweep.running import Executor, Message, Outcome, Status, Sweep
from pruning.study.sweep.slurm import parse_share, script, share
from pruning.study.sweep.study import Point, Study, load_study, parse_study, study_names

__all__ = [
    "Executor", "Graph", "LocalExecutor", "Message", "Outcome", "Point", "Status", "Study", "Sweep", "build", "expand",
    "load_study", "missing", "parse_share", "parse_study", "script", "share", "study_names", "write_record",
]  # fmt: skip
