"""What ties a run to source files of the user's own: their digests in its settings, their places beside them."""

from __future__ import annotations

from pruning import usercode
from pruning.plan import Train, override


def stamp(train: Train) -> tuple[Train, dict[str, str]]:
    """Returns the settings with the digests of the user's source files, and the absolute paths of those files."""
    code: dict[str, str] = {}
    for key, spec in (("model_code", train.model), ("data_code", train.data)):
        if usercode.is_code(spec):
            path, sha = usercode.resolve(spec)
            code[key] = str(path)
            train = override(train, {key: sha})
    return train, code
