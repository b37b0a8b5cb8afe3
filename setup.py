"""Maps cli/ to pruning.cli, so that no top-level module named `cli` is installed, and builds the native kernels.

PRUNE_BUILD chooses: `auto` (the default) builds what the machine can and says what it could not; `none` builds nothing;
`cpu` and `cuda` (which includes `cpu`) fail where they cannot build. Nothing here needs torch to read the metadata.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent.resolve()
STD = "-std=c++20"  # torch 2.11 would choose C++17 where none is given
STABLE = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # binaries load under torch 2.11 and later
ARCHS = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")  # the default for CUDA; the last is built as PTX too
NVCC = ("--expt-relaxed-constexpr", "-diag-suppress=177", "--threads=2")  # 177: the device pass sees no launches
ERROR = re.compile(r"\berror( #[\w-]+)?:|^nvcc fatal|undefined reference|ld: cannot find|: No such file or directory$")
WANT = os.environ.get("PRUNE_BUILD", "auto")


class Missing(Exception):
    """Something that a build needs is not there; the message says what."""


def toolkit() -> Path:
    """Returns the CUDA toolkit's folder, found by CUDA_HOME or by nvcc, through wrapper scripts too."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = Path(named, "bin", "nvcc") if named else shutil.which("nvcc")
    if not nvcc or not Path(nvcc).exists():
        raise Missing(f"no nvcc {'in CUDA_HOME=' + named if named else 'on the PATH, and CUDA_HOME is not set'}")
    dry = subprocess.run([str(nvcc), "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.*)$", dry, re.MULTILINE)
    home = Path(top[1].strip()).resolve() if top else Path(nvcc).resolve().parent.parent
    if not (home / "include" / "cuda_runtime.h").exists():
        raise Missing(f"{home} holds no include/cuda_runtime.h")
    return home


def archs(nvcc: Path) -> list[str]:
    """Returns the architectures to build for: TORCH_CUDA_ARCH_LIST, or those of the default that this nvcc knows."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if named:
        return named.replace(" ", ";").split(";")
    known = subprocess.run([str(nvcc), "--list-gpu-code"], capture_output=True, text=True, check=False).stdout.split()
    chosen = [a for a in ARCHS if f"sm_{a.replace('.', '')}" in known]
    if not chosen:
        raise Missing(f"{nvcc} builds for none of {', '.join(ARCHS)}")
    return [*chosen[:-1], f"{chosen[-1]}+PTX"]


def version(tool: str | Path) -> str:
    """Returns what the tool says of its version, on one line."""
    text = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"V(\d+\.\d+\.\d+)", text)
    return release[1] if release else (text.splitlines() or ["unknown"])[0]


def extensions() -> tuple[list[Extension], dict[str, str], list[str]]:
    """Returns the extensions to build, what they are built with, and what could not be built and why."""
    if WANT not in ("auto", "none", "cpu", "cuda"):
        sys.exit(f"error: PRUNE_BUILD={WANT}; allowed are auto, none, cpu, cuda")
    if WANT == "none":
        return [], {}, ["PRUNE_BUILD=none: built without native kernels"]
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    try:
        import pybind11
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        return [], {}, [f"{error.name} is not installed where the build runs (pip install --no-build-isolation)"]
    if not compiler or not shutil.which(compiler.split()[0]):
        return [], {}, [f"no C++ compiler ({compiler or 'g++, clang++ or c++'})"]

    built = {"torch": torch.__version__, "compiler": version(compiler.split()[0]), "nvcc": "", "archs": ""}
    flags = [
        "-O3",
        STD,
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Wno-maybe-uninitialized",
        STABLE,
        *os.environ.get("PRUNE_CXXFLAGS", "").split(),
    ]
    links = os.environ.get("PRUNE_LDFLAGS", "").split()
    libraries = {
        "include_dirs": [*cpp_extension.include_paths(), str(HERE / "csrc")],
        "library_dirs": cpp_extension.library_paths(),
        "depends": [str(p) for p in HERE.glob("csrc/*.h")] + [str(p) for p in HERE.glob("csrc/*.cuh")],
    }
    cpu = Extension(
        "pruning._C", sorted(str(p.relative_to(HERE)) for p in HERE.glob("csrc/*.cpp")), language="c++",
        libraries=["c10", "torch", "torch_cpu"], extra_compile_args={"cxx": flags}, extra_link_args=links, **libraries,
    )  # fmt: skip
    cpu.include_dirs.insert(0, pybind11.get_include())
    try:
        if WANT == "cpu":
            raise Missing("PRUNE_BUILD=cpu")
        home = toolkit()
        built["archs"] = ";".join(archs(home / "bin" / "nvcc"))
        built["nvcc"] = version(home / "bin" / "nvcc")
        cpp_extension.CUDA_HOME = str(home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = built["archs"]
        runtime = next((p for p in (home / "lib64", home / "lib") if (p / "libcudart_static.a").exists()), None)
        nvcc = [*NVCC, *os.environ.get("PRUNE_NVCCFLAGS", "").split()]
        cudart = ["cudart_static", "rt", "dl"] if runtime else ["cudart"]
        torch_cuda = [] if not list(Path(torch.__file__).parent.glob("lib/libtorch_cuda.*")) else ["torch_cuda"]
        cuda = Extension(
            "pruning._cuda", sorted(str(p.relative_to(HERE)) for p in HERE.glob("csrc/*.cu")), language="c++",
            libraries=[*torch_cuda, "c10", "torch", "torch_cpu", *cudart],
            extra_compile_args={"nvcc": ["-O3", STD, STABLE, "-DUSE_CUDA", "-Xcompiler=-fvisibility=hidden", *nvcc]},
            **libraries,
        )  # fmt: skip
        cuda.include_dirs.append(str(home / "include"))
        cuda.library_dirs.append(str(runtime or home / "lib64"))
    except Missing as missing:
        return [cpu], built, [f"CUDA kernels: {missing}"]
    return [cuda, cpu] if cuda.sources else [cpu], built, []  # CUDA first: the CPU module says what there is


def overheard(work: Callable[[], None]) -> str | None:
    """Does the work; returns None, or where it fails the first error that it or a compiler that it ran printed."""
    out, err, (reading, writing) = os.dup(1), os.dup(2), os.pipe()
    lines: list[str] = []

    def listen() -> None:
        with os.fdopen(reading, "rb") as told:
            for line in told:
                os.write(out, line)
                lines.append(line.decode(errors="replace").strip())

    sys.stdout.flush()
    sys.stderr.flush()
    listener = threading.Thread(target=listen)
    listener.start()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)
    failure = None
    try:
        work()
    except Exception as error:
        failure = (str(error).splitlines() or [type(error).__name__])[0]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out, 1)
        os.dup2(err, 2)
        listener.join()
        os.close(out)
        os.close(err)
    return failure and next((line for line in lines if ERROR.search(line)), failure)


def command(built: dict[str, str]) -> Any:
    """Returns torch's build command, taught to note what was built and, where nothing was asked for, to do without."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):  # type: ignore[misc]
        def get_export_symbols(self, ext: Extension) -> list[str]:
            return []

        def run(self) -> None:
            in_place = self.inplace or getattr(self, "editable_mode", False)
            super().run()
            note(HERE if in_place else Path(self.build_lib))

        def build_extensions(self) -> None:
            self.header = Path(self.build_temp).resolve() / "prune_build.h"
            self.header.parent.mkdir(parents=True, exist_ok=True)
            for extension in self.extensions:
                extension.include_dirs.append(str(self.header.parent))
            self.failed: list[Extension] = []
            try:
                super().build_extensions()
            except Exception as error:  # before the first extension: torch asks the compiler for its version
                if WANT != "auto":
                    raise
                for extension in self.extensions:
                    self.fail(extension, (str(error).splitlines() or [type(error).__name__])[0])
            self.extensions = [e for e in self.extensions if e not in self.failed]

        def build_extension(self, ext: Extension) -> None:
            about = built | ({"nvcc": "", "archs": ""} if self.failed else {})
            lines = [f"#define PRUNE_BUILD_{k.upper()} {json.dumps(v)}\n" for k, v in about.items()]
            self.header.write_text("".join(lines))
            if WANT != "auto":
                super().build_extension(ext)
            elif error := overheard(lambda: super(Build, self).build_extension(ext)):
                self.fail(ext, error)

        def fail(self, extension: Extension, error: str) -> None:
            """Notes that an extension is done without, and says so."""
            self.failed.append(extension)
            kind = "cuda" if extension.name == "pruning._cuda" else "cpu"
            see = f"for all of it: PRUNE_BUILD={kind} python setup.py build_ext --inplace"
            NOT_BUILT.append(f"{kind.upper()} kernels: the compiler failed: {error} ({see})")
            print(f"pruning: not built: {NOT_BUILT[-1]}", file=sys.stderr)

    return Build


def note(folder: Path) -> None:
    """Leaves beside the modules in the folder why native kernels were not built."""
    (folder / "pruning").mkdir(parents=True, exist_ok=True)
    (folder / "pruning" / "_native.json").write_text(json.dumps({"not_built": NOT_BUILT}) + "\n")


class Note(build_py):
    """build_py that leaves the reason beside the modules where native kernels were not built."""

    def run(self) -> None:
        super().run()
        note(HERE if self.editable_mode else Path(self.build_lib))


MODULES, BUILT, NOT_BUILT = extensions() if not {"egg_info", "sdist", "dist_info"} & set(sys.argv) else ([], {}, [])
for reason in NOT_BUILT:
    if WANT == "cuda" or (WANT == "cpu" and not MODULES):
        sys.exit(f"error: PRUNE_BUILD={WANT}: {reason}")
    print(f"pruning: not built: {reason}", file=sys.stderr)

setup(
    packages=[*find_packages(include=["pruning", "pruning.*"]), "pruning.cli"],
    package_dir={"pruning": "pruning", "pruning.cli": "cli"},
    package_data={
        "pruning": ["py.typed"],
        "pruning.plan.recipes": ["*.toml"],
        "pruning.study.studies": ["*.toml", "reported/*.csv"],
    },
    ext_modules=MODULES,
    cmdclass={"build_py": Note, "build_ext": command(BUILT) if MODULES else build_ext},
)
