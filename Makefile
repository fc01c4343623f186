# `make demo` and `make test` set up everything themselves; Python 3.11 or later, pip and make are all they need.
# Another Python: make demo PYTHON=python3.12. Arguments for pytest: make test ARGS="-m 'not slow'".

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# The older client of the Hub, for tests only, and what it needs beside the packages of constraints.txt.
HUB_1 := 1.33.0
HUB_1_PACKAGES := huggingface_hub==$(HUB_1) httpx==0.28.1 httpcore==1.0.9 certifi==2026.10.18

GATE = $(BIN)/linearsr eval --model compact --tags clean --hr $(LINEARSR_DATA)/bench/Set5 --protocol classical-x4 \
	--lpips-weights $(LINEARSR_DATA)/metrics/lpips-alex-v0.1.safetensors --no-cache --bootstrap 0 -f table

# Waiting OpenMP threads spin by default, which takes the cores from whatever runs beside.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test gate lint types docs figures bench clean
.NOTPARALLEL:

help:
	@echo "make demo     upscale four sample photographs into demo/side_by_side.png"
	@echo "make test     run the tests"
	@echo "make gate     hold the bundled model to its figures on Set5, where LINEARSR_DATA names a data folder"
	@echo "make lint     ruff (rules and format), and whether docs/reference/cli.md is up to date"
	@echo "make types    mypy"
	@echo "make docs     write docs/reference/cli.md from the command line"
	@echo "make figures  make every measured table and figure of README and docs from benchmarks/results"
	@echo "make bench    measure speed, and quality where LINEARSR_DATA names a data folder"
	@echo "make clean    remove what these commands made, but for $(VENV)"

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev $(VENV)/hub-1/.installed-$(HUB_1)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# What the bundled model reaches on Set5, less 0.1 dB and 0.003 for other processors' rounding.
gate: $(VENV)/.installed-dev
ifdef LINEARSR_DATA
	$(GATE) --steps 1 --fail-under 'psnr_y=31.20,ssim_y=0.879,lpips<0.193'
	$(GATE) --steps 4 --fail-under 'psnr_y=30.12,ssim_y=0.849,lpips<0.113'
else
	@echo "make gate: skipped, LINEARSR_DATA is not set"
endif

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/make_reference.py --check
	$(BIN)/python benchmarks/make_all.py --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/make_reference.py

figures: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/make_all.py

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run_speed.py $(ARGS)
ifdef LINEARSR_DATA
	$(BIN)/python benchmarks/run_quality.py --data $(LINEARSR_DATA)/bench/Set5 --scales 2,3,4 --steps 1,4 --tags clean
endif

# The stamp is newer than what decides the installation, so a second run installs nothing.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
		f"error: $(PYTHON) is Python {v}, expected 3.11 or later\nhint: make PYTHON=python3.12")'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# The tests of the Hub run with both of its clients; the older one lies in a folder of its own.
$(VENV)/hub-1/.installed-$(HUB_1): | $(VENV)/.installed-dev
	rm -rf $(VENV)/hub-1
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(VENV)/hub-1 $(HUB_1_PACKAGES)
	@touch $@

clean:
	rm -rf demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find benchmarks docs examples linearsr linearsr_cli tests train -name __pycache__ -type d -prune -exec rm -rf {} +
