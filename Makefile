# Each command sets up what it needs (tools/set_up.py) and then does its work.
PYTHON ?= python3
SETUP = $(PYTHON) tools/set_up.py
STAGE ?= smoke
# one BLAS thread: the tests run in parallel themselves
ONE = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-slow test-browser lint bench bench-tuning clean

demo:  ## the main job on the embedded model, offline
	@python=$$($(SETUP) demo) && $$python -m frog demo

test:  ## the fast tests, then the slow ones that fit
	@python=$$($(SETUP) dev) && $(ONE) $$python -m pytest -q -n 2

test-slow:  ## everything but GPU and browser
	@python=$$($(SETUP) dev) && $(ONE) $$python -m pytest -q -n 2 -m "slow and not gpu and not browser"

test-browser:  ## the page in headless Chromium; skips where there is none (CHROMIUM names one)
	@python=$$($(SETUP) dev) && $(ONE) $$python -m pytest -q -m browser

lint:
	@python=$$($(SETUP) dev) && $$python -m ruff check . && $$python -m ruff format --check . && $$python -m pyright --pythonpath $$python

bench:  ## every benchmark; results go to benchmarks/results
	@python=$$($(SETUP) bench) && for file in benchmarks/bench_*.py; do PYTHONPATH=. $$python $$file || exit 1; done

bench-tuning:  ## fine-tuning methods compared; STAGE=smoke tries it out, screen takes hours
	@python=$$($(SETUP) bench) && $(ONE) PYTHONPATH=. $$python -m benchmarks.tuning.run --stage $(STAGE)

clean:
	rm -rf .venv frog-out .pytest_cache .ruff_cache
