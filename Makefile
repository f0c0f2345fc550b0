# make demo    sets up, then goes from the bundled raw files to a small trained model
# make test    sets up, then lint, types and all tests
# make fuzz    the masks of templates on 52,500 dialogues, 20,000 hostile files of every format: about an hour
# make faults  kills and fails a build at every storage operation, and 200 times at random: half an hour
# make resume  resumes a training run after every step, and after a crash at every operation of a checkpoint: fifteen minutes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint fuzz faults resume bench clean

$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train]"
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.train
	$(BIN)/sftdata ingest recipes/data/zhenhuan/pages --format html -o select=article --out documents/pages
	$(BIN)/sftdata build recipes/zhenhuan.yaml
	$(BIN)/sftdata verify shards/zhenhuan
	$(BIN)/sftdata train shards/zhenhuan
	$(BIN)/sftdata generate models/zhenhuan --prompt "你是谁？" --max-new-tokens 64
	@echo
	@echo "model:          models/zhenhuan"
	@echo "learning curve: models/zhenhuan/curves.png and curves.json"
	@echo "report:         shards/zhenhuan/report.html"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

fuzz: $(VENV)/.dev
	SFTDATA_FUZZ_EXAMPLES=2500 $(BIN)/python -m pytest -q tests/test_templates_jinja.py -k oracle
	SFTDATA_FUZZ_ROWS=110 $(BIN)/python -m pytest -q tests/test_injection.py
	SFTDATA_FUZZ_TABLES=2000 $(BIN)/python -m pytest -q tests/test_ingest_*.py -k "come_back or comes_back or cut or agrees or sqlite_makes"
	SFTDATA_FUZZ_PAGES=20000 $(BIN)/python -m pytest -q tests/test_fuzz_html.py
	SFTDATA_FUZZ_FILES=20000 $(BIN)/python -m pytest -q tests/test_fuzz_tables.py

faults: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m faults

resume: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m resuming

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/pack.py
	$(BIN)/python benchmarks/gather.py
	$(BIN)/python benchmarks/clean.py
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/rebuild.py
	$(BIN)/python benchmarks/slop.py
	$(BIN)/python benchmarks/html_pages.py
	$(BIN)/python benchmarks/ingest.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis documents shards models
