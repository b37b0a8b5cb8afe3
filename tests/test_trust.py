"""Code named by a run: loaded silently where this account made the run, refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.plan import PlanError, Train, digest
from pruning.record import runs, trust, writing


@pytest.fixture
def own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


TRAIN = Train(model="net.py:build", model_code="0" * 64, data="digits")
DIGEST = digest(TRAIN)


def code_run(out: Path, name: str, code: dict[str, str], seal: str | None, train: Train = TRAIN) -> Path:
    settings = train.model_dump(mode="json")
    run = out / name
    run.mkdir()
    record = {"schema": 1, "settings": settings, "parent": None, "digest": DIGEST, "code": code}
    writing.write_json(run / runs.PHASE, record | ({"seal": seal} if seal else {}))
    return run


@pytest.mark.usefixtures("own_account")
def test_code_of_this_account_is_trusted_and_no_other(tmp_path: Path) -> None:
    code = {"model_code": "/home/me/net.py"}
    trust.check_trust(code_run(tmp_path, "own", code, trust.seal(DIGEST, code)), trust_code=False)
    for name, bad in (
        ("none", None),
        ("other", "f" * 64),
        ("moved", trust.seal(DIGEST, {"model_code": "/tmp/net.py"})),
    ):
        run = code_run(tmp_path, name, code, bad)
        with pytest.raises(PlanError, match="--trust-code"):
            trust.check_trust(run, trust_code=False)
        trust.check_trust(run, trust_code=True)


@pytest.mark.usefixtures("own_account")
def test_code_named_in_settings_alone_is_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--trust-code"):
        trust.check_trust(code_run(tmp_path, "a", {}, trust.seal(DIGEST, {})), trust_code=False)


@pytest.mark.usefixtures("own_account")
def test_a_seal_does_not_pass_to_other_settings(tmp_path: Path) -> None:
    code = {"model_code": "/home/me/net.py"}
    other = Train(model="net.py:another", model_code="0" * 64, data="digits")
    run = code_run(tmp_path, "a", code, trust.seal(DIGEST, code), other)
    with pytest.raises(PlanError, match="--trust-code"):
        trust.check_trust(run, trust_code=False)


@pytest.mark.usefixtures("own_account")
def test_the_key_is_for_this_account_alone(tmp_path: Path) -> None:
    assert trust.account_key() == trust.account_key()
    assert (tmp_path / "state" / "prune" / "key").stat().st_mode & 0o077 == 0
