#!/usr/bin/env bash
# abi_check.sh PYTHON BUILT LOADED: the kernels built under the torch BUILT (CUDA's too where there is nvcc, for one
# architecture) load and pass the property tests there and, as they are, under LOADED. With Python 3.12 where there is one,
# else with PYTHON, whose environment lends its CUDA libraries and pure Python packages, so that two wheels are all to fetch.
set -euo pipefail
lender=$1 built=$2 loaded=$3
here=$PWD
lent=$("$lender" -c 'import importlib.util, os; print(os.path.dirname(os.path.dirname(importlib.util.find_spec("torch").origin)))')
python=$lender
for candidate in "$(command -v python3.12 || true)" ~/.pyenv/versions/3.12*/bin/python; do
    if [ -n "$candidate" ] && "$candidate" -c "import venv, ensurepip" 2>/dev/null; then python=$candidate; fi
done

environment() { # FOLDER TORCH
    [ ! -e "$1/.done" ] || return 0
    "$python" -m venv --clear "$1"
    "$1/bin/python" -m pip install --quiet --no-deps "$2"
    "$1/bin/python" -m pip install --quiet numpy pytest pytest-timeout hypothesis typer rich pydantic safetensors ninja pybind11 "setuptools>=77,<82"
    echo "$lent" >"$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
    if ! "$1/bin/python" -c "import torch" 2>/dev/null; then # what was lent does not serve this torch
        rm "$1"/lib/python*/site-packages/lent.pth
        "$1/bin/python" -m pip install --quiet "$2"
    fi
    touch "$1/.done"
}

old=$here/.venv-abi/${built//[^a-z0-9.]/-} new=$here/.venv-abi/${loaded//[^a-z0-9.]/-}
environment "$old" "$built"
environment "$new" "$loaded" &

copy=$here/build/abi
rm -rf "$copy" && mkdir -p "$copy"
cp -r cli csrc pruning tests setup.py pyproject.toml LICENSE README.md "$copy"
rm -f "$copy"/pruning/*.so "$copy"/pruning/_native.json
cd "$copy"
wanted=cpu
if command -v "${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" >/dev/null; then wanted=cuda; fi
PRUNE_BUILD=$wanted TORCH_CUDA_ARCH_LIST=9.0 MAX_JOBS=$(nproc) PYTHONPATH=. "$old/bin/python" setup.py --quiet build_ext --inplace

wait %1
check() { # FOLDER
    WANTED=$wanted PYTHONPATH=. "$1/bin/python" - <<'P'
import os, torch
from pruning import ops
report = ops.report()
print(f"Python {report['python']}, torch {torch.__version__}: {report['built']}; {report['cpu']}; {report['cuda']}")
assert ops.backend("cpu") == "native-cpu"
assert os.environ["WANTED"] == "cpu" or not torch.version.cuda or report["cuda"]["reason"] is None
P
    PRUNE_CASES=300 OMP_NUM_THREADS=1 PYTHONPATH=. "$1/bin/python" -m pytest -q -p no:cacheprovider tests/test_ops.py tests/test_ops_reference.py
}
check "$old" >old.log 2>&1 &
first=$!
check "$new" && second=0 || second=$?
wait $first && first=0 || first=$?
cat old.log
exit $((first | second))
