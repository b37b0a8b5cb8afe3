"""Functions of the user's own, named "file.py:function" or "package.module:function": found, loaded and called.

Only the mechanism is here. Whether code may run at all (a run that came from elsewhere is not trusted) is decided by
the caller before :func:`load`; :func:`resolve` reads the source and executes nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, cast

from pruning.errors import PlanError, suggest

LIBRARIES = (
    "torchvision",
    "timm",
    "transformers",
)  # `torchvision:resnet50` is a model of that library, not a function in it


def is_code(spec: str) -> bool:
    """Returns whether `spec` names code of the user's own rather than something built in."""
    module, colon, function = spec.rpartition(":")
    return bool(colon and module and function) and spec.partition(":")[0] not in LIBRARIES


def resolve(spec: str) -> tuple[Path, str]:
    """Returns the absolute path of the source file and the SHA-256 of its bytes; executes none of it."""
    path = _find(spec)
    return path, hashlib.sha256(_read(spec, path)).hexdigest()


def load(spec: str) -> Callable[..., Any]:
    """Returns the function that `spec` names, as :func:`load_any` does; raises PlanError for anything else."""
    function = load_any(spec)
    if not callable(function):
        raise PlanError(f"'{spec}': '{spec.rpartition(':')[2]}' is no function but {type(function).__name__}")
    return cast("Callable[..., Any]", function)


def load_any(spec: str) -> Any:
    """Returns what `spec` names, its module executed or imported.

    A file is executed once per content, and what is executed are the bytes that were hashed for its module's name. Its
    folder (for a module, the current folder) is on the import path meanwhile, so that it can import its neighbours.
    """
    path = _find(spec)
    module_name, _, name = spec.rpartition(":")
    try:
        if _is_file(module_name):
            with _on_path(path.parent):
                module = _execute(path, _read(spec, path))
        else:
            with _on_path(Path.cwd()):
                module = importlib.import_module(module_name)
    except PlanError:
        raise
    except (Exception, SystemExit) as error:
        raise PlanError(f"'{spec}' cannot be loaded: {_reason(error, path)}") from error
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise PlanError(f"'{spec}': {path} has no function '{name}'{suggest(name, functions)}")
    return getattr(module, name)


def call(
    what: str,
    function: Callable[..., Any],
    offered: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    typed: bool = False,
) -> Any:
    """Returns what `function` makes of those `offered` keywords that its signature accepts, and of all `options`.

    An option that the signature does not accept is refused with the nearest one that it does; `typed` also compares
    each option with the type of its default. `what` names the thing in messages: "model 'lenet-5'".
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise PlanError(f"{what}: the signature of {function!r} cannot be read") from None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    allowed = sorted(set(named) - set(offered))
    for key, value in options.items():
        if key in offered or (key not in named and not takes_any):
            known = f"; allowed: {', '.join(allowed)}" if allowed else "; it has none"
            raise PlanError(f"{what} has no option '{key}'{suggest(key, allowed)}{known}")
        if typed and key in named and not _fits(value, named[key].default):
            wanted = type(named[key].default).__name__
            raise PlanError(f"{what}: option '{key}' takes a value of type {wanted}, not {value!r}")
    for key, p in parameters.items():
        required = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if required and (key not in named or (key not in offered and key not in options)):
            raise PlanError(f"{what} needs '{key}', which is neither an option given nor one of {', '.join(offered)}")
    keywords = {k: v for k, v in offered.items() if takes_any or k in named}
    try:
        return function(**keywords, **options)
    except PlanError:
        raise
    except (Exception, SystemExit) as error:
        raise PlanError(f"{what} failed: {_reason(error, getattr(function, '__code__', None))}") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Returns a context in which :func:`seed_generators` holds, and after which all generators are as before."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_generators(seed: int) -> None:
    """Returns nothing; seeds Python's, numpy's and torch's CPU generators, which a user's code may draw from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def _is_file(module_name: str) -> bool:
    return module_name.endswith(".py")


def _find(spec: str) -> Path:
    module_name, colon, function = spec.rpartition(":")
    if not (colon and module_name and function):
        raise PlanError(f"'{spec}' is no function's name; write file.py:function or package.module:function")
    if _is_file(module_name):
        path = Path(module_name).expanduser().resolve()
        if not path.is_file():
            raise PlanError(f"'{spec}': there is no file {path}")
        return path
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise PlanError(f"'{spec}': '{module_name}' is neither a file that ends in .py nor a module's name")
    return _find_module(spec, module_name)


def _find_module(spec: str, module_name: str) -> Path:
    # importlib.util.find_spec("a.b") imports a; the path finder asked for one level after the other imports nothing.
    head, *rest = module_name.split(".")
    with _on_path(Path.cwd()):
        try:
            found = importlib.util.find_spec(head)
        except ValueError:  # a module without a spec, such as __main__
            found = None
    name = head
    for part in rest:
        if found is None:
            break
        name = f"{name}.{part}"
        found = importlib.machinery.PathFinder.find_spec(name, list(found.submodule_search_locations or []))
    if found is None:
        raise PlanError(f"'{spec}': there is no module '{name}' on the import path or in {Path.cwd()}")
    if not found.origin or not found.origin.endswith(".py"):
        raise PlanError(f"'{spec}': module '{module_name}' has no Python source")
    return Path(found.origin).resolve()


def _read(spec: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"'{spec}': {path} cannot be read: {error.strerror}") from None


def _execute(path: Path, source: bytes) -> ModuleType:
    # In sys.modules, as dataclasses and pickles to workers need it, by a name that follows from path and content.
    name = f"prune_user_{path.stem}_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _reason(error: BaseException, source: Path | CodeType | None) -> str:
    path = source.co_filename if isinstance(source, CodeType) else str(source)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f" (line {lines[-1]} of {path})" if lines else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text if text else ''}{where}"


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))
