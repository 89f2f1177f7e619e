# Everything a fresh machine needs is python3.11+ and make: each target makes .venv itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two sets of packages in one environment: what a run needs, and all extras; the second has the first.
RUNS := $(VENV)/.installed_runs
INSTALLED := $(VENV)/.installed
EXTRAS := nni,dashboard,postgres,slurm,tokenizers,notebook,onnx,transformers,docs,dev
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable
SOURCES := nas_growclip tests benchmarks analysis docs
# Without bytecode on the disk every process compiles its libraries: ten seconds for PyTorch's.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv demo notebooks test campaign lint docs audit format clean

venv: $(INSTALLED)

$(BIN)/uv:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(RUNS): pyproject.toml constraints.txt | $(BIN)/uv
	$(INSTALL) .
	touch $(RUNS)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/uv
	$(INSTALL) '.[$(EXTRAS)]'
	touch $(RUNS) $(INSTALLED)

demo: $(RUNS)
	$(BIN)/growclip run experiments/demo.yaml --out runs/demo

# The notebooks' small runs, then every notebook, with its outputs and its figures for the docs.
notebooks: $(INSTALLED)
	$(BIN)/python -m analysis.notebooks

# Two processes of one thread each: the models are too small to share a second core well.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		--durations 20 --longest 60

# What repeats the suite's claims with other seeds, for as long as wanted.
campaign: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --hypothesis-profile campaign \
		-m 'campaign or hypothesis'

lint: $(INSTALLED)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/; fails on a broken link. Without the network.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Needs the network: asks for known vulnerabilities of every pinned version.
audit: $(INSTALLED)
	$(BIN)/uvx pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(INSTALLED)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
