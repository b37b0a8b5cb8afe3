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
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent.resolve()
STABLE = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # binaries load under torch 2.11 and later
ARCHS = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")  # the default for CUDA; the last is built as PTX too
NVCC = ("--expt-relaxed-constexpr", "-diag-suppress=177", "--threads=2")  # 177: the device pass sees no launches
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
            extra_compile_args={"nvcc": ["-O3", "-std=c++20", STABLE, "-DUSE_CUDA", "-Xcompiler=-fvisibility=hidden", *nvcc]},
            **libraries,
        )  # fmt: skip
        cuda.include_dirs.append(str(home / "include"))
        cuda.library_dirs.append(str(runtime or home / "lib64"))
    except Missing as missing:
        return [cpu], built, [f"CUDA kernels: {missing}"]
    return [cpu, cuda] if cuda.sources else [cpu], built, []


def command(built: dict[str, str]) -> Any:
    """Returns torch's build command, taught to note what was built and, where nothing was asked for, to do without."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):  # type: ignore[misc]
        def get_export_symbols(self, ext: Extension) -> list[str]:
            return []

        def build_extensions(self) -> None:
            folder = Path(self.build_temp).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            lines = [f"#define PRUNE_BUILD_{k.upper()} {json.dumps(v)}\n" for k, v in built.items()]
            (folder / "prune_build.h").write_text("".join(lines))
            for extension in self.extensions:
                extension.include_dirs.append(str(folder))
            try:
                super().build_extensions()
            except Exception as error:
                if WANT != "auto":
                    raise
                print(f"pruning: built without native kernels: {str(error).splitlines()[0]}", file=sys.stderr)
                self.extensions = []

    return Build


class Note(build_py):
    """build_py that leaves the reason beside the modules where native kernels were not built."""

    def run(self) -> None:
        super().run()
        folder = HERE / "pruning" if self.editable_mode else Path(self.build_lib) / "pruning"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_native.json").write_text(json.dumps({"not_built": NOT_BUILT}) + "\n")


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
        "pruning.recipes": ["*.toml"],
        "pruning.studies": ["*.toml", "reported/*.csv"],
    },
    ext_modules=MODULES,
    cmdclass={"build_py": Note, "build_ext": command(BUILT) if MODULES else build_ext},
)
