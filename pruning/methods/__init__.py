"""During-training methods by name."""

from __future__ import annotations

from pruning.methods.base import Method

METHODS: dict[str, type[Method]] = {"none": Method}
SUMMARIES = {"none": "plain dense training"}

__all__ = ["METHODS", "SUMMARIES", "Method"]
