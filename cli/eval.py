"""`prune eval`: a run measured again on the test set."""

from __future__ import annotations

from pruning.record import runs

from . import options, screen_tables
from .inputs import run_folder
from .output import emit, emit_json
from .screen import Screen


def evaluate(
    run: options.Run,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    download: options.Download = False,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure a run: test accuracy, loss, sparsity, parameters, MACs and theoretical speedup.

    The network is loaded from the run folder and evaluated anew; nothing is written.
    """
    from pruning import engine

    folder = run_folder(run)
    where = {"device": device, "data_dir": data_dir, "download": download, "trust_code": trust_code}
    with Screen(quiet=quiet) as screen:
        result = engine.evaluate_run(folder, tell=screen.tell, **where)
    if json:
        emit_json(runs.result(result))
        return
    screen.table(*screen_tables.result(result))
    emit(folder)
