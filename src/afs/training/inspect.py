"""Looking at data sets without changing them: `afs training validate | stats | diff | view`."""

from __future__ import annotations

from afs.training.compare import Diff, diff_datasets
from afs.training.health import Problem, Stats, ValidationReport, dataset_stats, validate_jsonl
from afs.training.view import Seen, View, view_rows

__all__ = ["Diff", "Problem", "Seen", "Stats", "ValidationReport", "View", "dataset_stats", "diff_datasets",
           "validate_jsonl", "view_rows"]  # fmt: skip
