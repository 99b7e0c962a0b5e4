# Everything runs from virtual environments that these targets make themselves.

PYTHON ?= python3
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OLDEST_JAX ?= 0.8.0
WORKERS ?= 2

# Pip gives Python 3.12 and newer a newer JAX than older ones.
NEWER_PYTHONS = $(shell .ci/find-python)
NEWEST_PYTHON = $(lastword $(NEWER_PYTHONS))

# Finding neurons, every case, solvers and the update: what a change of JAX or of the library breaks first.
FAST_TESTS = $(addprefix tests/, program finding/test_cases.py finding/test_sharing.py finding/test_regions.py \
	features/test_layout.py solvers/test_solvers.py test_transform.py test_imports.py)

# Real data lies beside a checkout on machines without internet.
ifneq ($(wildcard ../shared/data),)
export LNB_DATA_DIR ?= $(abspath ../shared/data)
endif

.PHONY: demo test test-fast test-newest check check-default docs pages public-models report bench bench-accelerator bench-kfac format fuzz test-matrix test-kfac clean

demo: .venv/installed
	.venv/bin/lnb compare matrix-factorization
	.venv/bin/lnb compare digits-inverted
	@printf '\nPlots of LNB against Adam:\n%s\n%s\n' \
		lnb-results/matrix-factorization/comparison.png lnb-results/digits-inverted/comparison.png

test: .venv/installed
	.venv/bin/pytest -n $(WORKERS)
	cd experiments && ../.venv/bin/pytest -n $(WORKERS)

# For the inner loop.
test-fast: .venv/installed
	.venv/bin/pytest -n $(WORKERS) $(FAST_TESTS)

# The same on the newest JAX, where a Python that gets it is found.
test-newest:
	@if [ -n "$(NEWEST_PYTHON)" ]; then \
		$(MAKE) --no-print-directory .venv-$(NEWEST_PYTHON)/installed && \
		.venv-$(NEWEST_PYTHON)/bin/pytest -n $(WORKERS) $(FAST_TESTS); \
	else \
		echo "No Python 3.12 or newer was found: the fast tests on the newest JAX were not run."; \
	fi

# The properties on random networks, many more than in `make test` and others each time.
fuzz: .venv/installed
	.venv/bin/pytest -n $(WORKERS) --hypothesis-profile=fuzz tests/finding/test_properties.py tests/features

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
	JAX_NUM_CPU_DEVICES=8 .venv/bin/python tests/coverage_page.py

# What LNB finds in networks of other libraries, and how they train; hours on two cores. Checkouts of bonsai, flax,
# jaxpi and jaxpi's branch pirate (jaxpi-pirate) are looked for in SOURCES. Models that have a record are not measured again.
SOURCES ?= sources
public-models: .venv-models/installed
	PYTHONPATH=benchmarks .venv-models/bin/python -m public_models --sources $(SOURCES)

# The page about all records of results/, its figures and its tables, which docs/ includes.
report: .venv/installed
	.venv/bin/lnb report results --output docs/results/report.html

# LNB as the library has it, untuned, beside a tuned AdamW on four tasks, a line each; five minutes on two cores.
check-default: .venv/installed
	.venv/bin/lnb check-default

# What a training step costs with each optimizer, and how soon each is at a target; an hour on two cores.
bench: .venv/installed
	PYTHONPATH=examples .venv/bin/python benchmarks/step.py
	.venv/bin/python benchmarks/target.py

# The cost of a step on a GPU or TPU, with the JAX that is installed there.
bench-accelerator:
	PYTHONPATH=src:examples:benchmarks python3 benchmarks/accelerator.py

# The same with K-FAC, which needs an older JAX than most have.
bench-kfac: .venv-kfac/installed
	PYTHONPATH=examples .venv-kfac/bin/python benchmarks/step.py --networks mnist-mlp wide-mlp \
		--optimizers adam kfac "lnb auto" --output benchmarks/results/kfac

format: .venv/installed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Everything: on the newest JAX of $(PYTHON), the oldest that is supported, 0.11, and the newest of each newer Python.
MATRIX = oldest $(if $(NEWER_PYTHONS),0.11) $(NEWER_PYTHONS)
test-matrix: test $(MATRIX:%=.venv-%/installed)
	for name in $(MATRIX); do \
		.venv-$$name/bin/pytest -n $(WORKERS) && \
		(cd experiments && ../.venv-$$name/bin/pytest -n $(WORKERS)) || exit; \
	done
	$(MAKE) --no-print-directory test-kfac

# The K-FAC baseline.
test-kfac: .venv-kfac/installed
	.venv-kfac/bin/pytest experiments/tests/test_kfac.py

# Made anew for another Python.
.venv/python-$(PYTHON_VERSION):
	rm -rf .venv
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: pyproject.toml experiments/pyproject.toml .venv/python-$(PYTHON_VERSION)
	.venv/bin/python -m pip install --quiet -e '.[dev]' -e ./experiments
	touch $@

.venv-oldest/installed: pyproject.toml experiments/pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -e '.[dev]' -e ./experiments 'jax==$(OLDEST_JAX)'
	touch $@

.venv-0.11/installed: pyproject.toml experiments/pyproject.toml
	$$(.ci/find-python $(firstword $(NEWER_PYTHONS))) -m venv .venv-0.11
	.venv-0.11/bin/python -m pip install --quiet -e '.[dev]' -e ./experiments 'jax==0.11.*'
	touch $@

.venv-3.%/installed: pyproject.toml experiments/pyproject.toml
	$$(.ci/find-python 3.$*) -m venv .venv-3.$*
	.venv-3.$*/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]' -e ./experiments
	touch $@

.venv-kfac/installed: pyproject.toml experiments/pyproject.toml
	$(PYTHON) -m venv .venv-kfac
	.venv-kfac/bin/python -m pip install --quiet -e '.[dev]' -e './experiments[kfac]'
	touch $@

.venv-models/installed: pyproject.toml experiments/pyproject.toml benchmarks/public_models/requirements.txt
	$(PYTHON) -m venv .venv-models
	.venv-models/bin/python -m pip install --quiet -e . -r benchmarks/public_models/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .hypothesis build dist
