"""Whose code is it? A run may name a user's model or data code; only what this account named itself runs unasked.

A run that names code carries a seal: an HMAC, under a secret of the account that made it, over the run's digest and the places of
its source files. Whoever has not the secret cannot make one, so a folder from elsewhere is told apart wherever it was unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning import runs
from pruning.plan import PlanError


def account_key() -> bytes:
    """Returns this account's secret, made on first use in $XDG_STATE_HOME/prune/key and readable by the account alone."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = base / "prune" / "key"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)  # mkstemp makes files of mode 0600
        with open(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # unlike a rename, leaves the key that another process made first
        os.unlink(part)
        return path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"cannot write {path}, which marks the runs of this account as its own: {error.strerror}"
        ) from None


def seal(digest: str, code: Mapping[str, Any]) -> str:
    """Returns the mark that this account made a run that names code: an HMAC over its digest and the code's places."""
    text = json.dumps([digest, dict(code)], sort_keys=True)
    return hmac.new(account_key(), text.encode(), hashlib.sha256).hexdigest()


def check_trust(run: Path, trust_code: bool) -> None:
    """Raises PlanError where the run's history names a user's code and was not made by this account, unless trusted."""
    for folder in runs.history(run):
        record = runs.read_record(folder)
        code = record.get("code") or {}
        named = {key for key in ("model_code", "data_code") if record["settings"].get(key)}
        if not named and not code:
            continue
        if trust_code:
            continue
        good = isinstance(record.get("seal"), str) and hmac.compare_digest(record["seal"], seal(record["digest"], code))
        if not good or named != set(code):
            places = ", ".join(str(v) for v in code.values()) or ", ".join(sorted(named))
            raise PlanError(
                f"run '{folder}' would execute code ({places}) and was not made by this account; "
                "read that code, then allow it with --trust-code"
            )
