# One word does everything from a bare clone: the virtual environment, the install and the work.
# Variables:  make test VENV=/elsewhere   PYTHON=python3.12   (demo) DEMO_OUT=folder   (demo-video) DEMO_VIDEO_OUT=folder

VENV ?= .venv
PYTHON ?= python3
DEMO_OUT ?= output/demo
DEMO_VIDEO_OUT ?= output/demo_video

BIN := $(VENV)/bin
# Written after a complete install; holds the checkout that the environment is an editable install of.
STAMP := $(VENV)/.stvit-installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install test demo demo-video lint types wheel pytest clean another-checkout

help:
	@echo "make demo     show the shipped Moving MNIST predictor, then train and test one (about 6 minutes on 2 cores)"
	@echo "make demo-video   write videos, train a small network of clips on them and test it (about 5 minutes on 2 cores)"
	@echo "make test     lint, then the built wheel and its types, then the tests"
	@echo "make lint | wheel | pytest   a part of make test;  make types   the type check alone"
	@echo "make install  only the virtual environment, in $(VENV) (about 5.5 GB; set VENV= to move it)"
	@echo "make clean    remove build leftovers and caches; the environment and output/ stay"

install: $(STAMP)

test: lint wheel pytest

# First the shipped predictor, which is only evaluated; its files go to DEMO_OUT/builtin. Then one is trained: a second
# run finds its finished training in DEMO_OUT and only evaluates again; a stopped one goes on.
# Threads of libgomp wait by a short spin, then sleep: within 4 % on idle cores, a quarter faster where others compute.
demo: $(STAMP)
	@echo "== the predictor that stvit ships (trained on MNIST): two digits of scikit-learn's on 64x64 pixels, no training"
	@$(BIN)/python tools/main.py --cfg configs/moving_mnist/builtin_demo.yaml OUTPUT_DIR "$(DEMO_OUT)/builtin"
	@echo "== another, smaller one, trained here: one digit of scikit-learn's on 48x48 pixels, an easier task"
	@GOMP_SPINCOUNT=1000 $(BIN)/python tools/main.py --cfg configs/moving_mnist/demo.yaml OUTPUT_DIR "$(DEMO_OUT)"

# The same of the second: data and networks that are done stay, and only the test runs again.
demo-video: $(STAMP)
	@$(BIN)/python tools/motion_demo.py --output "$(DEMO_VIDEO_OUT)"

lint: $(STAMP)
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "these files need: $(BIN)/ruff format ."; exit 1; }

wheel: $(STAMP)
	@echo "== the built wheel, away from the checkout, and its types"
	@$(BIN)/python tools/check_wheel.py

types: $(STAMP)
	@echo "== mypy on the built wheel"
	@$(BIN)/python tools/check_wheel.py types

# A test that hangs for five minutes ends the run with every thread's traceback, instead of being waited for.
NO_HANGING := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true
# A process a core, up to four, each with whole files of tests, so that what a file prepares is prepared once.
# The script and not `python -m pytest`, which puts this folder, and with it `datasets`, on the import path.
pytest: $(STAMP)
	@echo "== pytest"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q $(NO_HANGING) --numprocesses auto --maxprocesses 4 --dist loadfile

clean:
	@rm -rf build dist stvit.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find datasets models2d models3d stvit tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# The mapped folders are fixed at install time: a change of setup.py, or another checkout, needs a new install.
ifneq ($(shell cat "$(STAMP)" 2>/dev/null),$(CURDIR))
$(STAMP): another-checkout
endif

$(STAMP): setup.py pyproject.toml
	@command -v "$(PYTHON)" >/dev/null \
	    || { echo "no program is called $(PYTHON): name a Python 3.10 or newer, as in make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "stvit needs Python 3.10 or newer and $(PYTHON) is $$("$(PYTHON)" -V 2>&1): name another, as in make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "$(PYTHON) cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@rm -f "$@"
	@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || { echo "== a virtual environment in $(VENV)"; "$(PYTHON)" -m venv "$(VENV)"; }
	@echo "== installing stvit and what it needs into $(VENV) (the first time about 5.5 GB, some minutes)"
	@"$(BIN)/python" -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@printf '%s' '$(CURDIR)' > "$@"
