"""Code named by a run: loaded silently where this account made the run, refused elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning import runs, trust
from pruning.plan import PlanError, Train


@pytest.fixture
def own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def code_run(out: Path, name: str, code: dict[str, str], seal: str | None) -> Path:
    settings = Train(model="net.py:build", model_code="0" * 64, data="digits").model_dump(mode="json")
    run = out / name
    run.mkdir()
    record = {"schema": 1, "settings": settings, "parent": None, "digest": "d" * 64, "code": code}
    runs.write_json(run / runs.PHASE, record | ({"seal": seal} if seal else {}))
    return run


@pytest.mark.usefixtures("own_account")
def test_code_of_this_account_is_trusted_and_no_other(tmp_path: Path) -> None:
    code = {"model_code": "/home/me/net.py"}
    trust.check_trust(code_run(tmp_path, "own", code, trust.seal("d" * 64, code)), trust_code=False)
    for name, bad in (
        ("none", None),
        ("other", "f" * 64),
        ("moved", trust.seal("d" * 64, {"model_code": "/tmp/net.py"})),
    ):
        run = code_run(tmp_path, name, code, bad)
        with pytest.raises(PlanError, match="--trust-code"):
            trust.check_trust(run, trust_code=False)
        trust.check_trust(run, trust_code=True)


@pytest.mark.usefixtures("own_account")
def test_code_named_in_settings_alone_is_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--trust-code"):
        trust.check_trust(code_run(tmp_path, "a", {}, trust.seal("d" * 64, {})), trust_code=False)


@pytest.mark.usefixtures("own_account")
def test_the_key_is_for_this_account_alone(tmp_path: Path) -> None:
    assert trust.account_key() == trust.account_key()
    assert (tmp_path / "state" / "prune" / "key").stat().st_mode & 0o077 == 0
