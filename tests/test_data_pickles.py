"""Pickled data files from strangers: nothing that they name runs, and what is no CIFAR batch is one clear error."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.data.pickles import read_pickle
from pruning.plan import PlanError


class Calls:
    """Pickles as a call of `function`, which happens on loading."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def refused(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(PlanError) as caught:
        read_pickle("cifar10", path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nested", [False, True])
def test_no_call_is_made(tmp_path: Path, protocol: int, nested: bool) -> None:
    mark = tmp_path / "ran"
    calls = [
        Calls(os.system, f"touch {mark}"),
        Calls(subprocess.call, ["touch", str(mark)]),
        Calls(builtins.eval, f"open({str(mark)!r}, 'w')"),
        Calls(builtins.exec, f"open({str(mark)!r}, 'w')"),
        Calls(builtins.getattr, "x", "upper"),
        Calls(OrderedDict),
        Calls(np.load, str(mark)),
        Calls(np.fromfile, str(mark)),
        Calls(pickle.loads, b"N."),
        Calls(bytearray, 2**40),
    ]
    for call in calls:
        payload = {b"data": [call], b"labels": [1]} if nested else call
        assert "is not admitted" in refused(tmp_path / "batch", pickle.dumps(payload, protocol=protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a pickle",
        b"\x80\x02",
        b"\x80\x02}q\x00",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cnumpy\nndarray\n)R.",  # calls the type itself
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",  # an array of objects: its bytes would be pointers
        b"\x80\x02cnumpy\ndtype\nX\x04\x00\x00\x00S999\x85R.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02c_codecs\ndecode\n.",
        b"\x80\x02Pwho\n.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x04\x96" + b"\xff" * 8 + b".",  # eight exabytes
        b"\x80\x02Nr\xff\xff\xff\x7f",  # a memo of two billion entries
    ],
)
def test_what_is_no_batch_is_refused(tmp_path: Path, raw: bytes) -> None:
    refused(tmp_path / "batch", raw)


@pytest.mark.parametrize(
    "array", [np.array([object()], object), np.zeros(2, "f8,O"), np.array(["a"]), np.zeros(3, "c16")]
)
def test_arrays_of_other_types_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    assert "is not admitted" in refused(tmp_path / "batch", pickle.dumps({b"data": array}, protocol=2))


def test_an_array_of_forged_shape_is_refused(tmp_path: Path) -> None:
    raw = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, protocol=2)
    assert raw.count(b"M\x00\x0c") == 1
    assert "from 6144 bytes" in refused(tmp_path / "batch", raw.replace(b"M\x00\x0c", b"M\x01\x0c"))


def test_writing_into_what_is_given_reaches_nothing(tmp_path: Path) -> None:
    # BUILD sets attributes on the object on the stack: here on the stand-in for numpy's constructor, and on an array's.
    into_function = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x0c\x00\x00\x00__defaults__X\x01\x00\x00\x00as\x86b."
    )
    refused(tmp_path / "batch", into_function)
    good = {b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"n": [1, "a", b"b", 2.5, None, True]}
    (tmp_path / "batch").write_bytes(pickle.dumps(good, protocol=2))
    read = read_pickle("cifar10", tmp_path / "batch")
    assert np.array_equal(read[b"data"], good[b"data"])
    assert read[b"n"] == good[b"n"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4"])
def test_arrays_come_back_as_they_were(tmp_path: Path, order: Any, dtype: str) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4), dtype=dtype, order=order)
    (tmp_path / "batch").write_bytes(pickle.dumps(array, protocol=2))
    assert np.array_equal(read_pickle("cifar10", tmp_path / "batch"), array)


def test_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    # As in the distribution: protocol 2, str as bytes, numpy.core.multiarray, the array's bytes as a string.
    raw = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
        b"tb\x89U\x02\x01\xfftbU\x06labelsq\x08]q\tK\x07au."
    )
    (tmp_path / "batch").write_bytes(raw)
    read = read_pickle("cifar10", tmp_path / "batch")
    assert read[b"data"].tolist() == [[1, 255]]
    assert read[b"labels"] == [7]
