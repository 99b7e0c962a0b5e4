# Everything runs from virtual environments that these targets make themselves.

PYTHON ?= python3
OLDEST_JAX ?= 0.8.0
WORKERS ?= 2

# Real data lies beside a checkout on machines without internet.
ifneq ($(wildcard ../shared/data),)
export LNB_DATA_DIR ?= ../shared/data
endif

.PHONY: demo test check docs pages bench bench-kfac format test-matrix test-kfac clean

demo: .venv/installed
	.venv/bin/lnb compare matrix-factorization
	.venv/bin/lnb compare digits-inverted --optimizers adam lnb-auto lnb
	@printf '\nPlots of LNB against Adam:\n%s\n%s\n' \
		lnb-results/matrix-factorization/comparison.png lnb-results/digits-inverted/comparison.png

test: .venv/installed
	.venv/bin/pytest -n $(WORKERS)

check: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	$(MAKE) --no-print-directory docs

# The documentation, into build/docs; a warning is an error. (The theme's own notices are about MkDocs 2.)
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

# The pages that are written from the tests' cases.
pages: .venv/installed
	.venv/bin/python tests/coverage_page.py

# What a training step costs with each optimizer, and how soon each is at a target; an hour on two cores.
bench: .venv/installed
	PYTHONPATH=examples .venv/bin/python benchmarks/step.py
	.venv/bin/python benchmarks/target.py

# The same with K-FAC, which needs an older JAX than most have.
bench-kfac: .venv-kfac/installed
	PYTHONPATH=examples .venv-kfac/bin/python benchmarks/step.py --networks mnist-mlp wide-mlp \
		--optimizers adam kfac "lnb auto" --output benchmarks/results/kfac

format: .venv/installed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

test-matrix: .venv-oldest/installed .venv-newest/installed
	.venv-oldest/bin/pytest -n $(WORKERS)
	.venv-newest/bin/pytest -n $(WORKERS)
	$(MAKE) --no-print-directory test-kfac

# The K-FAC baseline.
test-kfac: .venv-kfac/installed
	.venv-kfac/bin/pytest tests/test_kfac.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -e '.[dev]'
	touch $@

.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -e '.[dev]' 'jax==$(OLDEST_JAX)'
	touch $@

.venv-newest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	touch $@

.venv-kfac/installed: pyproject.toml
	$(PYTHON) -m venv .venv-kfac
	.venv-kfac/bin/python -m pip install --quiet -e '.[dev,kfac]'
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-kfac .pytest_cache .ruff_cache .hypothesis build dist
