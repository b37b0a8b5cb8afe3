"""Reads a data file that is a pickle without running anything that it names.

A pickle is a program: it may name any function and call it. Here every name is looked up in a table of five, and what
stands there are this module's own stand-ins, not numpy's: numpy's would take an array's bytes, shape and type as they
come, and a forged type (objects, whose bytes are pointers) is unsafe memory. All else (containers, strings, bytes,
numbers) is in the pickle format itself.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pruning.data import places

DTYPES = ("u1", "i4", "i8")


class _Refused(Exception):
    pass


def read_pickle(name: str, path: Path) -> Any:
    """Returns the file's containers, strings, bytes, numbers and arrays; raises PlanError at anything else."""
    try:
        return _finish(_Unpickler(io.BytesIO(places.read(name, path)), encoding="bytes").load())
    except _Refused as error:
        raise places.damaged(name, path, f"a pickle that asks for {error}, which is not admitted") from None
    except Exception as error:
        raise places.damaged(name, path, f"not the pickle expected ({type(error).__name__})") from None


class _Dtype:
    def __init__(self, code: Any) -> None:
        code = code.decode() if isinstance(code, bytes) else code
        if code not in DTYPES:
            raise _Refused(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:  # (version, byte order, ...)
        if state[1] in (b">", ">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    value: np.ndarray

    def __setstate__(self, state: Any) -> None:  # (version, shape, type, Fortran order, bytes)
        _, shape, dtype, fortran, raw = state
        if not (isinstance(raw, bytes) and isinstance(dtype, _Dtype) and all(type(n) is int and n >= 0 for n in shape)):
            raise _Refused("an array in an unknown form")
        if len(raw) != math.prod(shape) * dtype.dtype.itemsize:
            raise _Refused(f"an array of shape {shape} from {len(raw)} bytes")
        self.value = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _Unpickler(
    pickle._Unpickler
):  # the one in Python: its memo is a dict, where C's is an array of any size asked for
    def find_class(self, module: str, name: str) -> Any:
        # Made anew for each name, so that a pickle that writes into what it is given reaches nothing that lasts.
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return None
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: _Dtype(code)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object outside the file")


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused(f"encoding {encoding!r}")
    return text.encode("latin1")


def _finish(value: Any) -> Any:
    """Returns the value with its arrays in place of their stand-ins, one level down: deeper there are none."""
    if isinstance(value, dict):
        return {k: v.value if isinstance(v, _Array) else v for k, v in value.items()}
    return value.value if isinstance(value, _Array) else value
