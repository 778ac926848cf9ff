# make demo    poses on the photos in photos/, with the runtime alone
# make test    format, lint, types, tests
# make docs    the documentation as a site in build/site/
PYTHON ?= python3
RUNTIME := .venv
DEVELOP := .venv-dev

.PHONY: demo test docs clean

demo: $(RUNTIME)/installed
	$(RUNTIME)/bin/posedet predict photos --output demo-output
	@echo
	@echo "Annotated pictures and poses.json are in $(CURDIR)/demo-output"

test: $(DEVELOP)/installed
	$(DEVELOP)/bin/ruff format --check .
	$(DEVELOP)/bin/ruff check .
	$(DEVELOP)/bin/mypy
	$(DEVELOP)/bin/pytest -q -rs

docs: $(DEVELOP)/installed
	$(DEVELOP)/bin/mkdocs build --strict

$(RUNTIME)/installed: pyproject.toml
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEVELOP)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEVELOP)
	$(DEVELOP)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train,export,openvino,docs,dev]"
	@touch $@

clean:
	rm -rf $(RUNTIME) $(DEVELOP) demo-output build
