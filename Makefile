# Everything runs in .venv, made here from PyPI alone: no compiler, linker or other system package is needed. Tests that
# need an emulator or a C compiler are skipped without it (make emulators).
# A second run starts at once: the environment is renewed only when pyproject.toml or constraints.txt change.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Python 3.11 or newer, as the pinned versions need it; choose another one by make PYTHON=...
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help demo test test-slow test-interop conformance fuzz fuzz-kernels fuzz-c bench peers methods runtime-wheel emulators lint format clean

help:
	@echo 'make demo    train a small binary network, compile it for this machine and for ARM, verify and benchmark it'
	@echo 'make test    run the tests'
	@echo 'make test-slow  run the long ones: the whole demo and the README'
	@echo 'make test-interop  run the examples of docs/your-network.md with Brevitas, QONNX, Larq and TensorFlow'
	@echo 'make conformance  compile and run all of ONNX'"'"'s cases for single operators; write docs/operators.md'
	@echo 'make fuzz    compile random networks and hostile files for an hour'
	@echo 'make fuzz-kernels  compare 20,000 random kernels with numpy, for an hour or two; FIRST=20000 takes others'
	@echo 'make fuzz-c  run 1,000 random networks as C libraries with sanitizers, for an hour or two; needs gcc or clang'
	@echo 'make bench   measure kernels and networks against the limits of this machine and against onnxruntime'
	@echo 'make peers   compare whole networks with OpenVINO, ncnn and XNNPACK too, in an environment of their own'
	@echo 'make methods train every method on 28x28 MNIST, for an hour or two; renew table and picture of docs/methods.md'
	@echo 'make runtime-wheel  build sbnn-tvm-runtime, the wheel for devices that only run compiled models, into dist/'
	@echo 'make emulators  say which Debian packages some tests need beside Python; install them where CI=true'
	@echo 'make lint    check style, types, dead code, and which folder may import which'
	@echo 'make format  apply the style'
	@echo 'make clean   remove everything made here'

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# One process per core, with one thread each for training, so that the longest test delays the end little.
WORKERS ?= auto
# The order is random; ORDER=2 is another one.
ORDER ?= 1
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal \
	--randomly-seed $(ORDER)

test: $(INSTALLED)
	$(PARALLEL)

test-slow: $(INSTALLED)
	$(PARALLEL) -m slow

# Networks of other tools, in environments of their own: Brevitas and QONNX here, Larq and TensorFlow in .venv-keras.
INTEROP := .venv-interop
KERAS := .venv-keras
PEERS := .venv-peers

test-interop: $(INTEROP)/.installed $(KERAS)/.installed
	OMP_NUM_THREADS=1 SBNN_KERAS_PYTHON=$(CURDIR)/$(KERAS)/bin/python $(INTEROP)/bin/python -m pytest \
		-m interop tests/interop tests/frontends/onnx

conformance: $(INSTALLED)
	OMP_NUM_THREADS=1 TVM_NUM_THREADS=1 $(BIN)/python -m tests.conformance --docs docs/operators.md

fuzz: $(INSTALLED)
	$(BIN)/python -m pytest -m fuzz --timeout 0

FIRST ?= 0
NUMBER ?= 20000
fuzz-kernels: $(INSTALLED)
	$(BIN)/python -m tests.random_kernels $(FIRST) $(NUMBER)

# With the setuptools of .venv, so that nothing is downloaded.
runtime-wheel: $(INSTALLED)
	$(BIN)/python packaging/runtime_wheel.py dist

fuzz-c: NUMBER = 1000
fuzz-c: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.random_c_libraries $(FIRST) $(NUMBER)

# A missed bar gives exit code 1. The other benchmarks still run.
bench: $(INSTALLED)
	mkdir -p out
	$(BIN)/python benchmarks/probes.py --output out/probes.json
	-$(BIN)/python benchmarks/kernels.py --output out/kernels.json
	-$(BIN)/python benchmarks/kernels.py --target x86-64-v3 --output out/kernels_avx2.json
	-$(BIN)/python benchmarks/sparse_kernels.py --output out/sparse_kernels.json
	-$(BIN)/python benchmarks/sparse_kernels.py --target x86-64-v3 --output out/sparse_kernels_avx2.json
	-$(BIN)/python benchmarks/instructions.py --output out/instructions.json
	-$(BIN)/python benchmarks/float_cycles.py --output out/float_cycles.json
	-$(BIN)/python benchmarks/c_runtime.py --output out/c_runtime.json
	-$(BIN)/python benchmarks/networks.py --output out/networks.json
	$(BIN)/python benchmarks/plots.py

peers: $(PEERS)/.installed
	mkdir -p out
	$(PEERS)/bin/python benchmarks/networks.py --output out/network_peers.json

methods: $(INSTALLED)
	$(BIN)/python benchmarks/methods.py --output out/methods.json --docs docs/methods.md
	$(BIN)/python benchmarks/plots.py out/methods.json
	cp out/plots/methods.png docs/pictures/methods.png

emulators:
	tests/install_emulators.sh

# mypy and import-linter do not know that passes/ is sbnn_tvm.passes: show them the package as it is installed.
TYPED := build/typed

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/vulture
	rm -rf $(TYPED) && mkdir -p $(TYPED)
	cp -r sbnn_tvm $(TYPED)/ && cp -r frontends passes schedules $(TYPED)/sbnn_tvm/
	MYPYPATH=$(TYPED) $(BIN)/mypy
	cd $(TYPED) && $(CURDIR)/$(BIN)/lint-imports --no-cache $(CURDIR)/pyproject.toml

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(INSTALLED): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'no Python 3.11 or newer found: install one, or make PYTHON=/path/to/it'; exit 1; }
	@echo 'Installing into $(VENV) with $(PYTHON); this takes a few minutes once.'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

# Brevitas needs an older setuptools than constraints.txt names.
$(INTEROP)/.installed: pyproject.toml constraints.txt tests/interop/constraints.txt
	test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	grep -v '^setuptools=' constraints.txt | cat - tests/interop/constraints.txt > $(INTEROP)/constraints.txt
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -c $(INTEROP)/constraints.txt \
		-e '.[compile,torch,verify,interop]' hypothesis pytest pytest-randomly pytest-timeout
	touch $@

$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[compile,torch,verify,benchmarks]'
	touch $@

# Larq needs an older numpy than ours.
$(KERAS)/.installed: tests/interop/keras.txt
	test -x $(KERAS)/bin/python || $(PYTHON) -m venv $(KERAS)
	$(KERAS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/interop/keras.txt
	touch $@

clean:
	rm -rf $(VENV) $(INTEROP) $(KERAS) $(PEERS) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
