# Checks of the native kernels beyond the suite; included by the Makefile.

ABI_TORCH ?= torch==2.13.0
ABI := .venv-abi

.PHONY: abi-check sanitize gpu-check bench

# The module as built, loaded under an older torch in an environment of its own, passes the property tests there.
abi-check: $(VENV)/.installed
	test -x $(ABI)/bin/python || $(PYTHON) -m venv $(ABI)
	$(ABI)/bin/python -m pip install --quiet "$(ABI_TORCH)" numpy pytest pytest-timeout hypothesis typer rich pydantic safetensors
	PYTHONPATH=$(CURDIR) $(ABI)/bin/python -c "from pruning import ops; import torch; print(torch.__version__, ops.report()['built']); assert ops.backend('cpu') == 'native-cpu'"
	PRUNE_CASES=300 PYTHONPATH=$(CURDIR) $(ABI)/bin/python -m pytest -q -p no:cacheprovider tests/test_ops.py tests/test_ops_reference.py

# The property tests on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the sources.
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
sanitize: $(VENV)/.tested
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r cli csrc pruning tests setup.py pyproject.toml LICENSE README.md build/sanitize/
	rm -f build/sanitize/pruning/*.so
	cd build/sanitize && PRUNE_BUILD=cpu PRUNE_CXXFLAGS="$(SANITIZE)" PRUNE_LDFLAGS="-fsanitize=address,undefined" \
	    $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	for level in avx512 avx2 scalar; do \
	    (cd build/sanitize && PRUNE_CPU=$$level PYTHONPATH=. OMP_NUM_THREADS=2 \
	        LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so) $$(g++ -print-file-name=libstdc++.so)" \
	        ASAN_OPTIONS=detect_leaks=0:strict_init_order=1 UBSAN_OPTIONS=print_stacktrace=1 \
	        $(abspath $(BIN))/python -m pytest -q -p no:cacheprovider tests/test_ops.py tests/test_ops_reference.py \
	        -k "not compile and not opcheck and not lesser and not switched_off") || exit 1; \
	done

# Everything that waits for a GPU: its tests, compute-sanitizer's three tools, its benchmarks.
gpu-check: $(VENV)/.tested
	$(BIN)/python -c "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'no CUDA device')"
	$(BIN)/python -m pytest -q -m gpu tests
	for tool in memcheck racecheck initcheck; do \
	    PYTORCH_NO_CUDA_MEMORY_CACHING=1 PRUNE_GPU_CASES=60 compute-sanitizer --tool $$tool --error-exitcode 1 --target-processes all \
	        $(BIN)/python -m pytest -q -p no:cacheprovider -m gpu tests/test_ops_gpu.py -k "random or ties or bracket" || exit 1; \
	done
	$(BIN)/python benchmarks/topk_masks.py --device cuda
	$(BIN)/python benchmarks/masked_sgd.py --device cuda
	$(BIN)/python benchmarks/nnz.py --device cuda

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/topk_masks.py
	$(BIN)/python benchmarks/masked_sgd.py
	$(BIN)/python benchmarks/nnz.py
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/prune_command.py
