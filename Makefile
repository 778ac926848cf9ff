# make demo      poses on the photos in photos/, with the runtime alone
# make quick     the quick tests, about a minute: for every change
# make test      format, lint, spelling, types, all tests: what continuous integration runs
# make docs      the documentation as a site in build/site/
# make coverage  all tests, and which lines they run
PYTHON ?= python3
RUNTIME := .venv
DEVELOP := .venv-dev
# Processes for the tests.
JOBS ?= 2

.PHONY: demo quick test docs coverage check clean

demo: $(RUNTIME)/installed
	$(RUNTIME)/bin/posedet predict photos --output demo-output
	@echo
	@echo "Annotated pictures and poses.json are in $(CURDIR)/demo-output"

# One thread of PyTorch in each process: more would wait for each other.
quick: $(DEVELOP)/installed
	OMP_NUM_THREADS=1 $(DEVELOP)/bin/pytest -q -m "not slow" -n $(JOBS)

check: $(DEVELOP)/installed
	$(DEVELOP)/bin/ruff format --check .
	$(DEVELOP)/bin/ruff check .
	$(DEVELOP)/bin/codespell
	$(DEVELOP)/bin/mypy

test: check
	$(DEVELOP)/bin/pytest -q -rs -n $(JOBS)

docs: $(DEVELOP)/installed
	$(DEVELOP)/bin/mkdocs build --strict

coverage: $(DEVELOP)/installed
	$(DEVELOP)/bin/pytest -q --cov --cov-report=term --cov-report=html

$(RUNTIME)/installed: pyproject.toml
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEVELOP)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEVELOP)
	$(DEVELOP)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,openvino,quantise,video,parquet,serve,docs,dev]"
	@touch $@

clean:
	rm -rf $(RUNTIME) $(DEVELOP) demo-output build dist htmlcov
