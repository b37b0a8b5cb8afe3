"""The build: what a wheel and a source distribution hold, which GPUs the CUDA library serves, installs without a compiler."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pruning import ops

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
FATBINARY = struct.pack("<I", 0xBA55ED50)
BUILT = ops.report()["built"]
cuda = pytest.mark.skipif(not ops.report()["cuda"]["library"], reason="the CUDA kernels were not built here")
native = pytest.mark.skipif(BUILT is None, reason=f"no kernels: {ops.report()['cpu']['reason']}")


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Returns what the command printed; fails with its end where it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def architectures(library: bytes) -> set[tuple[str, int]]:
    """Returns what a library's fat binaries hold: ("sm" or "ptx", compute capability, 90 for 9.0)."""
    at, found = 0, set()
    while (at := library.find(FATBINARY, at)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", library, at)
        entry, at = at + header, at + header + size
        while entry < at:
            kind, _, header, size = struct.unpack_from("<HHIQ", library, entry)
            found.add(({1: "ptx", 2: "sm"}[kind], struct.unpack_from("<I", library, entry + 28)[0]))
            entry += header + size
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that builds leave nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source") / "checkout"
    skip = shutil.ignore_patterns(
        ".*", "build", "dist", "runs", "*.so", "*.egg-info", "__pycache__", "_native.json", "tests"
    )
    shutil.copytree(ROOT, folder, ignore=skip)
    return folder


def wheel(source: Path, out: Path, build: str, **environment: str) -> tuple[list[str], Path, str]:
    """Returns the wheel's names without metadata, the wheel, and what building it printed."""
    command = [*PIP, "wheel", str(source), "--no-deps", "--no-build-isolation", "-v", "-w", str(out)]
    told = run(command, out, PRUNE_BUILD=build, **environment)
    (path,) = out.glob("pruning-*.whl")
    return [n for n in zipfile.ZipFile(path).namelist() if ".dist-info/" not in n], path, told


def test_a_wheel_without_kernels_holds_the_package_alone_works_and_says_so(source: Path, tmp_path: Path) -> None:
    names, path, told = wheel(source, tmp_path, "none")
    assert path.name.endswith("-none-any.whl")
    assert {n.split("/")[0] for n in names} == {"pruning"}
    assert "pruning/cli/main.py" in names
    assert "pruning/py.typed" in names
    assert not [n for n in names if n.endswith((".so", ".cpp", ".cu", ".h"))]
    assert "pruning: not built: PRUNE_BUILD=none" in told
    zipfile.ZipFile(path).extractall(tmp_path / "site")
    code = "from pruning import ops; r = ops.report(); print(ops.backend('cpu'), r['built'], r['cpu']['reason'])"
    told = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert (
        told.strip() == "reference None the CPU kernels were not built: PRUNE_BUILD=none: built without native kernels"
    )


def test_an_install_where_no_compiler_is_found_works_and_names_the_reason(source: Path, tmp_path: Path) -> None:
    bare = os.pathsep.join([str(Path(sys.executable).parent)])
    _, path, told = wheel(source, tmp_path, "auto", PATH=bare, CXX="no-such-compiler")
    assert "pruning: not built: no C++ compiler (no-such-compiler)" in told
    zipfile.ZipFile(path).extractall(tmp_path / "site")
    code = "from pruning import ops; print(ops.report()['cpu']['reason'])"
    told = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert told.strip() == "the CPU kernels were not built: no C++ compiler (no-such-compiler)"


@native
@pytest.mark.parametrize("mode", ["wheel", "editable"])
def test_an_install_where_the_compiler_fails_works_and_shows_its_first_error(
    source: Path, tmp_path: Path, mode: str
) -> None:
    broken = tmp_path / "broken"
    broken.write_text(
        '#!/bin/sh\n[ $# -gt 2 ] || exec g++ "$@"\n'
        "echo 'x.cpp:1:1: error: no such luck' >&2\necho 'x.cpp:2:1: error: two' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    copy = tmp_path / "checkout"
    shutil.copytree(source, copy)
    environment = {"CXX": str(broken), "CC": str(broken), "CUDA_HOME": "/nowhere"}
    if mode == "wheel":
        names, path, told = wheel(copy, tmp_path, "auto", **environment)
        assert not [n for n in names if n.endswith(".so")]
        zipfile.ZipFile(path).extractall(tmp_path / "site")
        site = tmp_path / "site"
    else:
        site = copy  # what pip calls for an editable install, which itself would replace the one in use
        command = [sys.executable, "-c", f"from setuptools import build_meta as b; b.build_editable({str(tmp_path)!r})"]
        told = run(command, copy, PRUNE_BUILD="auto", **environment)
    reason = (
        "CPU kernels: the compiler failed: x.cpp:1:1: error: no such luck"
        " (for all of it: PRUNE_BUILD=cpu python setup.py build_ext --inplace)"
    )
    assert f"pruning: not built: {reason}" in told
    code = (
        "from pruning import ops; print(ops.nnz([__import__('torch').ones(3)]).item(), ops.report()['cpu']['reason'])"
    )
    told = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site))
    cuda = "CUDA kernels: no nvcc in CUDA_HOME=/nowhere"
    assert told.strip() == f"3 the CPU kernels were not built: {cuda}; {reason}"


@pytest.mark.parametrize("asked", ["cpu", "cuda"])
def test_kernels_that_were_asked_for_fail_where_they_cannot_be_built(source: Path, tmp_path: Path, asked: str) -> None:
    command = [sys.executable, "setup.py", "build"]
    environment = {**os.environ, "PRUNE_BUILD": asked, "CXX": "no-such-compiler"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"error: PRUNE_BUILD={asked}: no C++ compiler (no-such-compiler)" in done.stderr


def test_an_unknown_choice_is_refused(source: Path) -> None:
    environment = {**os.environ, "PRUNE_BUILD": "gpu"}
    done = subprocess.run(
        [sys.executable, "setup.py", "build"], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert "error: PRUNE_BUILD=gpu; allowed are auto, none, cpu, cuda" in done.stderr


def test_reading_the_metadata_imports_no_torch(source: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path)]
    run(command, source, PYTHONPATH=str(tmp_path))
    assert "Name: pruning" in (tmp_path / "pruning.egg-info" / "PKG-INFO").read_text()


def test_the_source_distribution_holds_all_that_a_build_needs(source: Path, tmp_path: Path) -> None:
    run([sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)], source)
    (path,) = tmp_path.glob("pruning-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").iterdir()} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "cli/main.py"} <= names


@native
@cuda
def test_a_wheel_with_kernels_holds_them_and_no_kernel_spills(source: Path, tmp_path: Path) -> None:
    names, path, told = wheel(source, tmp_path, "cuda", TORCH_CUDA_ARCH_LIST="8.0;9.0", PRUNE_NVCCFLAGS="-Xptxas=-v")
    assert {n.split("/")[0] for n in names} == {"pruning"}
    libraries = {re.sub(r"\..*", "", n.split("/")[1]): n for n in names if n.endswith(".so")}
    assert set(libraries) == {"_C", "_cuda"}
    assert architectures(zipfile.ZipFile(path).read(libraries["_cuda"])) == {("sm", 80), ("sm", 90)}
    kernels = re.findall(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", told)
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
    assert {arch for _, arch in kernels} == {"80", "90"}
    assert len(spills) == len(kernels) >= 2 * 20
    assert [k for k, s in zip(kernels, spills, strict=True) if s != ("0", "0", "0")] == []
    zipfile.ZipFile(path).extractall(tmp_path / "site")
    code = "import torch; from pruning import ops; print(ops.backend('cpu'), ops.nnz([torch.ones(3)]).item())"
    told = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert told.strip() == "native-cpu 3"


@cuda
def test_the_cuda_library_holds_code_for_every_architecture_that_it_reports() -> None:
    assert BUILT is not None
    held = architectures(Path(ops.report()["cuda"]["library"]).read_bytes())
    assert {f"{a // 10}.{a % 10}" for kind, a in held if kind == "sm"} == {
        a.removesuffix("+PTX") for a in BUILT["archs"].split(";")
    }
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        assert {("sm", 80), ("sm", 90)} <= held


def test_kernels_refuse_without_streams_which_crash_where_libstdcxx_is_linked_in() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").iterdir() if path.name != "expect.h"}
    assert [name for name, text in sources.items() if re.search(r"TORCH_CHECK|\w*stream>", text)] == []


@native
def test_the_module_says_what_it_was_built_with() -> None:
    assert set(BUILT) == {"torch", "compiler", "nvcc", "archs"}
    assert BUILT["compiler"]
    assert bool(BUILT["nvcc"]) == bool(BUILT["archs"]) == bool(ops.report()["cuda"]["library"])
    assert ops.report()["instructions"] in ("avx512", "avx2", "scalar")
