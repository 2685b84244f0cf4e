# Commands for working on mish_cuda; `make help` lists them.
#
#   PYTHON=...  the interpreter to use (python3). A virtual or conda environment is used as it is,
#               with the torch it holds. For any other interpreter .venv is made, in which its torch
#               can be seen, if it has one.
#   TORCH=...   a torch to install, such as TORCH=torch==2.9.1. Without it, torch is installed only
#               where there is none.

PYTHON ?= python3
DEFAULT_TORCH := torch==2.13.0
CUDA_TORCH := torch===2.11.0
CUDA_VERSION := 13.0
# The oldest supported torch, the one that CI tests with, and the newest published.
MATRIX := 2.9.1 2.13.0 newest

# Prints "own", "torch" or "bare": is it an environment of its own, does it have torch, or neither?
KIND := $(shell $(PYTHON) -c 'import os, sys; from importlib.util import find_spec; \
	own = sys.prefix != sys.base_prefix or os.path.isdir(sys.prefix + "/conda-meta"); \
	print("own" if own else "torch" if find_spec("torch") else "bare")')
ifeq ($(KIND),own)
ENV_PYTHON := $(shell $(PYTHON) -c 'import sys; print(sys.executable)')
else
ENV_PYTHON := $(CURDIR)/.venv/bin/python
endif
# Tools that pip installs (ninja, cmake, ruff, ...) are found without activating the environment.
export PATH := $(dir $(ENV_PYTHON)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python compiles what it imports; all of torch and of what the tests use would take a minute.
export PIP_COMPILE := 0

# Pinned: their next versions will find something else.
LINTERS := ruff==0.17.6 mypy==2.4.1 clang-format==23.1.5
BUILD_TOOLS := "setuptools>=64" wheel ninja cmake
JOBS := $(or $(MAX_JOBS),$(shell getconf _NPROCESSORS_ONLN))
# Tests by as many processes, so that each computes on one thread.
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses $(JOBS)
SOURCES := $(shell find csrc benchmarks tests/cpp -name "*.h" -o -name "*.cpp" -o -name "*.cu" -o -name "*.cuh")

.PHONY: help bench models paper accuracy test test-maths test-slow fuzz lint format cpp-test test-arm test-cuda-build test-matrix gpu sass clean tools environment cuda-environment build

help:
	@echo "make bench            measure on this machine: tables, a CSV and a page with plots"
	@echo "make models           the same for training steps and inference of whole networks"
	@echo "make paper            the paper's comparison of activations, on small data: tables, plots"
	@echo "make accuracy         prove the error bounds on this CPU: a table, a CSV and a plot"
	@echo "make test             the fast tests, of the maths in C++ and of everything in Python"
	@echo "make test-slow        the others: sanitizers, the CUDA kernels on the host, compilers, processes"
	@echo "make fuzz             thousands of random programs with mish beside the same with F.mish"
	@echo "make lint             check format, style and types"
	@echo "make format           put the format right"
	@echo "make cpp-test         build the LibTorch library and its example, test both"
	@echo "make test-arm         test the C++ kernels on 64-bit Arm, emulated"
	@echo "make test-cuda-build  build for CUDA in a second environment and test that (no GPU needed)"
	@echo "make test-matrix      build from source and test with torch $(MATRIX)"
	@echo "make sass             count the CUDA kernels' instructions against their budgets (no GPU needed)"
	@echo "make gpu              build, measure, test and prove on a GPU; leaves mish_gpu.tar.gz"
	@echo "make clean            remove environments and everything built"

bench: EXTRAS := bench
bench: build
	$(ENV_PYTHON) -m benchmarks run
	$(ENV_PYTHON) -m benchmarks report mish_benchmark.csv

models: EXTRAS := bench
models: build
	$(ENV_PYTHON) -m benchmarks networks

paper: EXTRAS := paper
paper: build
	$(ENV_PYTHON) -m benchmarks paper

accuracy: EXTRAS := accuracy
accuracy: build
	cmake -S . -B build/maths -DMISH_TORCH=OFF
	cmake --build build/maths --parallel $(JOBS) --target accuracy_kernels test_same_bits
	build/maths/test_same_bits --exhaustive
	$(ENV_PYTHON) -m benchmarks accuracy --device cpu

# Side by side, unless MAX_JOBS is 1: pip uses one processor.
test:
	$(MAKE) --no-print-directory --jobs=$(JOBS) EXTRAS=test build test-maths
	$(PYTEST)

# Without this make's flags, cmake's own make has the jobs that it is told.
test-maths: tools
	cmake -S . -B build/maths -DMISH_TORCH=OFF
	MAKEFLAGS= cmake --build build/maths --parallel $(JOBS)
	ctest --test-dir build/maths --output-on-failure --parallel $(JOBS)

# What takes too long for `make test`: the C++ tests under sanitizers, and with them those of the CUDA
# kernels on the host; Python tests that start compilers and processes, or are hundreds of one kind.
test-slow: EXTRAS := test,browser
test-slow: build
	cmake -S . -B build/sanitized -DMISH_TORCH=OFF -DMISH_SANITIZE=ON
	cmake --build build/sanitized --parallel $(JOBS)
	ctest --test-dir build/sanitized --output-on-failure --parallel $(JOBS)
	$(PYTEST) -m slow
	python -m pytest -m large

# New random programs each time, where `make test` always tries the same.
fuzz: EXTRAS := test
fuzz: build
	MISH_FUZZ=20 $(ENV_PYTHON) -m pytest tests/ops/test_programs.py -k random

lint: EXTRAS := test # the types of what benchmarks import
lint: build
	@$(ENV_PYTHON) -m pip install --quiet $(LINTERS) pytest
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(SOURCES)
	mypy

format: environment
	@$(ENV_PYTHON) -m pip install --quiet $(LINTERS)
	ruff check --fix .
	ruff format .
	clang-format -i $(SOURCES)

# Without the tests that need no torch, which `make test` runs.
cpp-test: environment
	cmake -S . -B build/cpp -DCMAKE_PREFIX_PATH="$$($(ENV_PYTHON) -c 'import torch; print(torch.utils.cmake_prefix_path)')"
	cmake --build build/cpp --parallel $(JOBS) --target mish_cuda example aoti
	ctest --test-dir build/cpp --output-on-failure --no-tests=error --tests-regex '^(example|install|find_package|aoti)'

# Static: the emulator then needs no folder with Arm's libraries.
test-arm: environment
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || { \
		echo "make: test-arm needs aarch64-linux-gnu-g++ and qemu-aarch64. On Debian and Ubuntu: apt install" \
		"g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
	cmake -S . -B build/arm -DMISH_TORCH=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
		-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64
	cmake --build build/arm --parallel $(JOBS) --target test_kernels
	ctest --test-dir build/arm --output-on-failure --no-tests=error --tests-regex '^test_kernels$$'

# What an earlier build left here is not in the way: the tests run in an unpacked source archive,
# so they also show that the archive is complete. Its compiled objects are kept between runs. Of the
# slow tests it takes those that need a torch for CUDA: `make test-slow` runs the others.
test-cuda-build: CUDA_ENV := $(CURDIR)/.venv-cuda
test-cuda-build: CUDA_SOURCE := $(CURDIR)/.venv-cuda/source
test-cuda-build: export PATH := $(CURDIR)/.venv-cuda/bin:$(PATH)
test-cuda-build: cuda-environment
	rm -rf build/sdist $(CUDA_SOURCE)/csrc $(CUDA_SOURCE)/mish_cuda $(CUDA_SOURCE)/tests
	python setup.py --quiet sdist --dist-dir build/sdist
	mkdir -p $(CUDA_SOURCE)
	tar -xzf build/sdist/*.tar.gz --strip-components=1 -C $(CUDA_SOURCE)
	cd $(CUDA_SOURCE) && MISH_CUDA_BUILD=cuda python -m pip install --quiet --no-build-isolation -e ".[test]"
	cd $(CUDA_SOURCE) && python -m mish_cuda
	cd $(CUDA_SOURCE) && $(PYTEST)
	cd $(CUDA_SOURCE) && $(PYTEST) -m slow -k compiler_of_pip tests/setup

# Each torch in an environment of its own, from an unpacked source archive: what is built in this
# folder stays as it is. CPU kernels only, whatever the torch was built for.
test-matrix: $(MATRIX:%=test-torch-%)

test-torch-%: .venv-matrix/%/bin/python
	$< -m pip install --quiet $(BUILD_TOOLS) $(if $(filter newest,$*),--upgrade torch,torch==$*)
	rm -rf .venv-matrix/$*/source build/sdist-$*
	$< setup.py --quiet sdist --dist-dir build/sdist-$*
	mkdir -p .venv-matrix/$*/source
	tar -xzf build/sdist-$*/*.tar.gz --strip-components=1 -C .venv-matrix/$*/source
	cd .venv-matrix/$*/source && export PATH=$(CURDIR)/.venv-matrix/$*/bin:$$PATH MISH_CUDA_BUILD=cpu && \
		python -m pip install --quiet --no-build-isolation -e ".[test]" && \
		python -m mish_cuda && $(PYTEST) -m "not large"

# With the Python at hand: nothing is fetched, and no environment is made.
gpu:
	$(PYTHON) -m benchmarks gpu

sass: cuda-environment
	.venv-cuda/bin/python -m pip install --quiet pandas rich
	.venv-cuda/bin/python -m benchmarks sass --csv build/sass.csv

clean:
	rm -rf build dist *.egg-info .venv .venv-cuda .venv-matrix mish_cuda/_without_kernels.py mish_cuda/_C*.so

tools: $(ENV_PYTHON)
	@$(ENV_PYTHON) -m pip install --quiet $(BUILD_TOOLS)

environment: tools
ifdef TORCH
	$(ENV_PYTHON) -m pip install "$(TORCH)"
else
	@$(ENV_PYTHON) -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("torch"))' \
		|| $(ENV_PYTHON) -m pip install "$(DEFAULT_TORCH)"
endif

cuda-environment: .venv-cuda/bin/python
	.venv-cuda/bin/python -m pip install --quiet $(BUILD_TOOLS) "$(CUDA_TORCH)" \
		"cuda-toolkit[nvcc,nvvm,crt,cccl,cudart]==$(CUDA_VERSION).*"

# Always asks ninja, which compiles only what changed: sources, torch, compiler or mode.
build: environment
	$(ENV_PYTHON) -m pip install --quiet --no-build-isolation -e ".$(EXTRAS:%=[%])"
	-@$(ENV_PYTHON) -m mish_cuda

%/bin/python:
	@$(PYTHON) -m venv $(if $(findstring torch,$(KIND)),--system-site-packages) $* || { rm -rf $*; \
		echo "make: $(PYTHON) cannot make the virtual environment $*. On Debian and Ubuntu: apt install" \
		"python3-venv. Or activate an environment of your own and run make again." >&2; exit 1; }
