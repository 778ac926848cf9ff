# make demo      poses on the photos in photos/, with the runtime alone
# make quick     the quick tests, about a minute: for every change
# make test      format, lint, spelling, types, all tests: what continuous integration runs
# make web       the page that runs in a browser; needs Node.js 20
# make web-test  its tests in Chromium, whose path CHROMIUM names if it is not /usr/bin/chromium
# make docs      the documentation as a site in build/site/
# make release-check  build a release twice into dist/, list what is in it, and try it with every Python that is found
# make coverage  all tests, and which lines they run
# make fuzz      changed inputs for everything that reads what others wrote, SECONDS=600 in all; on Linux
# make mutants   changed code of the maths and the readers: do the tests notice? More than an hour; on Linux
PYTHON ?= python3
RUNTIME := .venv
DEVELOP := .venv-dev
# Processes for the tests.
JOBS ?= 2
# Time for `make fuzz`.
SECONDS ?= 600

.PHONY: demo quick test web web-test docs release-check coverage fuzz mutants check clean

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

web: web/node_modules/.package-lock.json
	cd web && npm run build

web-test: web $(DEVELOP)/installed
	cd web && PYTHON=$(CURDIR)/$(DEVELOP)/bin/python npm test

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@touch $@

docs: $(DEVELOP)/installed
	$(DEVELOP)/bin/mkdocs build --strict

release-check: $(DEVELOP)/installed
	rm -rf dist
	$(DEVELOP)/bin/python -m lab.release build
	mkdir -p build && $(DEVELOP)/bin/python -m lab.release sbom > build/sbom.cdx.json
	$(DEVELOP)/bin/python -m lab.release try

coverage: $(DEVELOP)/installed
	$(DEVELOP)/bin/pytest -q --cov --cov-report=term --cov-report=html

# What is found lies in build/fuzz.
fuzz: $(DEVELOP)/installed
	$(DEVELOP)/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	PYTHONPATH=tests $(DEVELOP)/bin/python -m fuzz --seconds $(SECONDS)

# What became of each is in mutants/; `mutmut show NAME` there prints one.
mutants: $(DEVELOP)/installed
	$(DEVELOP)/bin/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	rm -rf mutants
	$(DEVELOP)/bin/python -m lab.trust mutants --jobs $(JOBS)

$(RUNTIME)/installed: pyproject.toml
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEVELOP)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEVELOP)
	$(DEVELOP)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,openvino,quantise,video,parquet,serve,docs,dev]"
	@touch $@

clean:
	rm -rf $(RUNTIME) $(DEVELOP) demo-output build dist htmlcov mutants web/node_modules src/posedet/serve/page
