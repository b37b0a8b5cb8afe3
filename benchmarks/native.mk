# Checks of the native kernels beyond the suite; included by the Makefile.

ABI_BUILT ?= torch==2.11.0
ABI_LOADED ?= torch==2.13.0

.PHONY: abi-check sanitize gpu-session bench

# Built under the oldest torch that is supported, loaded and tested there and under a later one.
abi-check: $(VENV)/.installed
	bash benchmarks/abi_check.sh $(BIN)/python $(ABI_BUILT) $(ABI_LOADED)

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

# Everything that waits for a GPU, with the python3 that is there: needs no network and makes no environment.
gpu-session:
	PYTHON=$(PYTHON) bash benchmarks/gpu_session.sh

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/topk_masks.py
	$(BIN)/python benchmarks/masked_sgd.py
	$(BIN)/python benchmarks/nnz.py
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/prune_command.py
