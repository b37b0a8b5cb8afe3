"""Settings as one text, and the digests that name runs."""

from __future__ import annotations

import hashlib
import json

from pruning.plan.names import SCHEMA
from pruning.plan.phases import Phase


def canonical(phase: Phase) -> str:
    """Returns the non-default settings as JSON with sorted keys and no spaces: equal text means equal settings."""
    settings = phase.model_dump(mode="json", exclude_defaults=True)
    settings["phase"] = phase.phase
    return json.dumps(settings, sort_keys=True, separators=(",", ":"))


def digest(phase: Phase, parent: str = "") -> str:
    """Returns the run's SHA-256 (64 hex digits) over its parent's digest, the schema number and its settings.

    A setting that keeps its default does not enter, so that a new setting with a default renames nothing.
    """
    text = "\n".join([parent, str(SCHEMA), canonical(phase)])
    return hashlib.sha256(text.encode()).hexdigest()
