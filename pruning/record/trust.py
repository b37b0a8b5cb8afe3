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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pruning import usercode
from pruning.plan import PlanError, digest
from pruning.record import runs, writing
from pruning.record.stamp import coded

KEY_BYTES = 32


def account_key() -> bytes:
    """Returns this account's secret, made on first use in $XDG_STATE_HOME/prune/key and readable by the account alone."""
    path = _state() / "key"
    with contextlib.suppress(FileNotFoundError):
        return _sound(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)  # mkstemp makes files of mode 0600
        with open(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # unlike a rename, leaves the key that another process made first
        os.unlink(part)
        writing.sync_folder(path.parent)
        return _sound(path)
    except OSError as error:
        raise PlanError(
            f"cannot write {path}, which marks the runs of this account as its own: {error.strerror}"
        ) from None


def _sound(path: Path) -> bytes:
    """Returns the key in a file; PlanError where it is cut short or may be read by others, which would let them make seals."""
    try:
        key = path.read_bytes()
        mode = path.stat().st_mode & 0o077
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PlanError(
            f"{path}, which marks the runs of this account as its own, cannot be read: {error.strerror}"
        ) from None
    if len(key) < KEY_BYTES:
        raise PlanError(
            f"{path}, which marks the runs of this account as its own, is damaged: it has {len(key)} bytes, not {KEY_BYTES}; "
            "remove it to get a new one (runs that name code then need --trust-code)"
        )
    if mode:
        raise PlanError(f"{path} may be read or written by others; make it the account's own: chmod 600 {path}")
    return key


def seal(digest: str, code: Mapping[str, Any]) -> str:
    """Returns the mark that this account made a run that names code: an HMAC over its digest and the code's places."""
    text = json.dumps([digest, dict(code)], sort_keys=True)
    return hmac.new(account_key(), text.encode(), hashlib.sha256).hexdigest()


def allow(names: Iterable[str], trust_code: bool, source: str) -> None:
    """Raises PlanError where one of the names is code of the user's own, unless trusted; looks at the names and at nothing else."""
    code = sorted(name for name in names if usercode.is_code(name))
    if code and not trust_code:
        raise PlanError(
            f"{source} would execute code ({', '.join(code)}); read that code, then allow it with --trust-code"
        )


def allow_file(names: Iterable[str], source: str, trust_code: bool) -> None:
    """Raises PlanError where a plan or study from a file names code that this account has not allowed yet, as it is now.

    `trust_code` allows it, and is remembered for these functions in these files with these contents.
    """
    code = sorted({name for name in names if usercode.is_code(name)})
    if not code:
        return
    places = {name: list(map(str, usercode.resolve(name))) for name in code}
    mark, path = seal("", {name: " ".join(place) for name, place in places.items()}), _state() / "trusted"
    try:
        known = path.read_text().split() if path.exists() else []
        if mark in known:
            return
        if trust_code:
            with path.open("a") as file:
                file.write(mark + "\n")
            return
    except OSError as error:
        raise PlanError(f"cannot use {path}, which holds what this account allowed: {error.strerror}") from None
    raise PlanError(
        f"{source} would execute code ({', '.join(place for place, _ in places.values())}) that this account has not allowed; "
        "read that code, then allow it with --trust-code, once until it changes"
    )


def _state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "prune"


def check_trust(run: Path, trust_code: bool) -> None:
    """Raises PlanError where the run's history names a user's code and was not made by this account, unless trusted."""
    if trust_code:
        return
    root = runs.history(run)[0]
    train, record = runs.train_settings(run), runs.read_record(root)
    code: dict[str, Any] = record.get("code") or {}
    named = set(coded(train))
    if not named and not code:
        return
    mark = record.get("seal")
    # The seal is over the digest and the digest over the settings: neither can be exchanged alone.
    own = digest(train) == record.get("digest") and named == set(code) and isinstance(mark, str)
    if not own or not hmac.compare_digest(str(mark), seal(record["digest"], code)):
        places = ", ".join(str(v) for v in code.values()) or ", ".join(sorted(set(coded(train).values())))
        raise PlanError(
            f"run '{root}' would execute code ({places}) and was not made by this account; "
            "read that code, then allow it with --trust-code"
        )
