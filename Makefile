# Two commands are enough: `make play` and `make test`.
PY = $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)/bin/python
# One thread per process: two OpenMP threads beside a busy process run 20-100 times slower.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false
# A test file runs in one worker from its first test to its last.
WORKERS ?= 2

.PHONY: play stop test test-all lint bench bench-schools setup setup-dev

play: setup
	$(PY) -m training start-all --until-battle 120

stop:
	$(PY) -m training stop-all

setup:
	@EXTRAS=training ./scripts/bootstrap_dev.sh

setup-dev:
	@SYSTEM=1 DOCTOR=0 ./scripts/bootstrap_dev.sh

test: setup-dev lint
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not gpu"

test-all: setup-dev lint
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not gpu"

lint:
	$(PY) -m ruff check .

bench: setup-dev
	$(PY) -m benchmarks

bench-schools: setup-dev
	$(PY) benchmarks/schools.py
