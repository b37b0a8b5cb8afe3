#!/usr/bin/env bash
# All that waits for a GPU in one run of some minutes, most valuable first, without network and without an environment.
#
#     make gpu-session [PYTHON=python3] [OUT=gpu-results] [LIMIT=540] [STEPS="build ops topk"] [WHEELS=dir] [DATA=dir] [DRY=1]
#
# Builds in place for the present card. A step that fails or runs out of time leaves the others running; a step for which
# too little of LIMIT (seconds, in all) is left is skipped. Results lie in OUT as they come, 7 files at most: steps.txt,
# machine.txt, benchmarks.jsonl, benchmarks.txt, profile.txt, training.txt, logs.tar.gz. WHEELS: a folder of wheels that the
# Python lacks (nvidia-cuda-cccl>=13.2 among them for cub::DeviceTopK). DATA: a folder with CIFAR-10, without which the training is of digits. DRY: the same on the CPU, small.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=${PYTHON:-python3}
[[ $python != */* ]] || python=$(realpath -s "$python") # steps change the folder
limit=${LIMIT:-540}
dry=${DRY:-}
steps=${STEPS:-build ops topk sgd nnz epoch profile memcheck racecheck initcheck tests train}
out=${OUT:-gpu-results}
mkdir -p "$out" && out=$(cd "$out" && pwd)
[ -z "${DATA:-}" ] || DATA=$(cd "$DATA" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/logs" "$work/site" "$work/tree/pruning"
: >"$out/steps.txt"
failed=0
PATH=$PATH:/usr/local/cuda/bin:/usr/local/nvidia/bin
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export PYTHONPATH=$work/tree:$root/tests:$root/benchmarks:$work/site

say() { echo "$*" | tee -a "$out/steps.txt"; }

wanted() { [[ " $steps " == *" $1 "* ]]; }

# The sources as a package, pruning.cli in it, without an install; again after the build, for the libraries.
link() {
    ln -sfn "$root"/pruning/* "$work/tree/pruning/"
    ln -sfn "$root/cli" "$work/tree/pruning/cli"
}

# step NAME NEEDS MOST FILE COMMAND...: runs the command for MOST seconds at most, where NEEDS are left; FILE gets its output.
step() {
    local name=$1 needs=$2 most=$3 file=$4 start=$SECONDS left=$((limit - SECONDS)) rc
    shift 4
    [ "$limit" -le 540 ] || most=$((most * limit / 540))
    wanted "$name" || return 0
    if [ "$left" -lt "$needs" ]; then
        say "$(printf '%-10s skipped: %d s are left, it needs %d' "$name" "$left" "$needs")"
        return 0
    fi
    timeout -k 5 "$((most < left ? most : left))" "$@" >"$work/logs/$name.log" 2>&1 &
    local pid=$!
    if [ -n "$file" ]; then # as it comes: what is there when time runs out counts
        tail -n +1 -s 0.2 -f --pid=$pid "$work/logs/$name.log" >>"$out/$file"
    fi
    wait $pid
    rc=$?
    [ $rc = 0 ] || failed=1
    say "$(printf '%-10s rc %3d  %4d s  total %4d s' "$name" $rc $((SECONDS - start)) "$SECONDS")$([ $rc = 124 ] && echo '  out of time')"
    tail -n 4 "$work/logs/$name.log" | cut -c1-240 | sed 's/^/    /'
    tar -czf "$out/logs.tar.gz" -C "$work" logs
}

if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/site" "$WHEELS"/*.whl || failed=1
fi
link
lacking=$("$python" - <<'P'
from importlib.util import find_spec
wanted = "torch numpy typer rich pydantic safetensors pybind11 setuptools pytest pytest_timeout hypothesis sklearn".split()
print(*(name for name in wanted if find_spec(name) is None))
P
)
[ -z "$lacking" ] || say "$python lacks $lacking: give their wheels by WHEELS"

if [ -n "$dry" ]; then
    device=cpu card=
    small="--repeats 2 --sizes resnet56 --threads 1"
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
else
    device=cuda small="--repeats 9"
    card=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || exit 1
fi
export TORCH_CUDA_ARCH_LIST=$card MAX_JOBS=$(nproc)
{
    date
    nvidia-smi 2>&1
    nvcc --version 2>&1
    "$python" -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda)'
    nproc
} >"$out/machine.txt" 2>&1

build() {
    if [ -n "$dry" ] && "$python" -c 'from pruning import ops; raise SystemExit(ops.backend("cpu") != "native-cpu")'; then
        echo "the CPU kernels are built already"
        return 0
    fi
    cd "$root" && PRUNE_BUILD=$([ -n "$dry" ] && echo cpu || echo cuda) "$python" setup.py build_ext --inplace
}

train() { # by the command line: dense, pruned, retrained
    cd "$work" || return 1
    local data="digits" model="--model lenet-5" epochs=10 retrain=5 run
    if [ -n "${DATA:-}" ] && [ -z "$dry" ]; then data="cifar10 --data-dir $DATA" model="--model resnet20" epochs=8 retrain=4; fi
    [ -z "$dry" ] || epochs=2 retrain=1
    local prune=("$python" -m pruning.cli) common=(--device "$device" --out "$work/runs" --quiet)
    # shellcheck disable=SC2086
    run=$("${prune[@]}" train $model --data $data --epochs $epochs "${common[@]}") && told "$run" || return 1
    run=$("${prune[@]}" prune "$run" --sparsity 0.9 --device "$device" ${DATA:+--data-dir "$DATA"} --quiet) && told "$run" || return 1
    run=$("${prune[@]}" retrain "$run" --epochs $retrain --device "$device" ${DATA:+--data-dir "$DATA"} --quiet) && told "$run"
}

told() { # a run's result, and how fast its epochs went
    "$python" - "$1" <<'P'
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
result = json.loads((run / "summary.json").read_text())
log = run / "log.jsonl"
rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
speed = [round(row["images_per_second"]) for row in rows if "images_per_second" in row]
print(run.name, *(f"{key} {result[key]}" for key in ("backend", "device", "accuracy", "sparsity")), "images/s by epoch", speed)
P
}

sanitized() { # TOOL
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 PRUNE_GPU_CASES=10 compute-sanitizer --tool "$1" --error-exitcode 9 "${pytest[@]}" \
        tests/test_ops_gpu.py -k "random"
}

pytest=("$python" -m pytest -q -p no:cacheprovider -p pytest_timeout --timeout 60 -m gpu)
export -f build train told sanitized
export python root dry device work DATA
# Functions run in a shell of their own, for timeout's sake; arrays do not travel by the environment.
shell() { step "$1" "$2" "$3" "$4" bash -c "pytest=(${pytest[*]@Q}); ${*:5}"; }

shell build 1 240 "" build
link
PRUNE_GPU_CASES=${PRUNE_GPU_CASES:-150} step ops 20 90 "" "${pytest[@]}" --maxfail 5 tests/test_ops_gpu.py
record="--device $device --record $out/benchmarks.jsonl"
# shellcheck disable=SC2086
{
    step topk 20 100 benchmarks.txt "$python" benchmarks/topk_masks.py $record $small
    step sgd 20 60 benchmarks.txt "$python" benchmarks/masked_sgd.py $record $small
    step nnz 15 30 benchmarks.txt "$python" benchmarks/nnz.py $record $small
    step epoch 15 30 benchmarks.txt "$python" benchmarks/epoch.py $record ${small/--sizes resnet56/}
}
step profile 15 40 profile.txt "$python" benchmarks/step_profile.py --device $device ${dry:+--steps 2}
for tool in memcheck racecheck initcheck; do
    if [ -z "$dry" ]; then
        shell $tool 20 45 "" sanitized $tool
    elif wanted $tool; then
        say "$(printf '%-10s skipped: compute-sanitizer needs a GPU' $tool)"
    fi
done
step tests 15 60 "" "${pytest[@]}" tests/test_optim.py tests/test_holding.py tests/test_flops.py tests/test_criteria.py tests/test_data.py
shell train 20 120 training.txt train

echo
echo "$out:"
cat "$out/steps.txt"
exit $failed
