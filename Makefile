# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -e
, := ,
RUN := runs/glyphs
# Two processes of one thread each: on two cores as fast as one process of two threads, and far faster where other
# programs share the cores, because ranks wait for each other once a step and threads at every operation.
LAUNCH ?= configs/launch/$(if $(shell command -v nvidia-smi 2>/dev/null),one,cpu2).yaml

TRAIN = $(BIN)/accelerate launch --config_file $(LAUNCH) pretrain.py configs/glyphs.yaml run.directory=$(RUN)
# $(call timed,what,command): say what runs, run it, say how long it took.
timed = @echo "== $(1)"; begin=$$(date +%s); $(2) && echo "== done in $$(($$(date +%s) - begin)) s"

.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow check clean-quickstart

help:
	@echo "make quickstart   set up, build the built-in data, train, evaluate, report (5 to 7 minutes on two cores)"
	@echo "make test         set up and run the checks and the tests"
	@echo "make test-slow    the tests that take minutes"

quickstart: $(RUN)/zeroshot/results.json
	@$(BIN)/python benchmarks/quickstart.py --summary $(RUN)

test: .venv/.dev check
	$(call timed,tests,$(BIN)/python -m pytest)

test-slow: .venv/.dev
	@$(BIN)/python -m pytest -m slow

check: .venv/.dev
	$(call timed,lint and format and types,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy)

clean-quickstart:
	rm -rf data/glyphs $(RUN)

data/glyphs/manifest.json: | .venv/.base
	$(call timed,data: rendering glyphs into webdataset shards,$(BIN)/python data_recipes/glyphs.py --out data/glyphs)

# An interrupted training goes on where it was.
$(RUN)/finished.json: | data/glyphs/manifest.json
	$(call timed,training (at most five minutes on two cores); metrics in $(RUN)/metrics.jsonl,$(TRAIN))

$(RUN)/zeroshot/results.json: $(RUN)/finished.json
	$(call timed,evaluation of the checkpoint on what it never saw,$(BIN)/python eval_zeroshot.py --model $(RUN) --output $(@D))

.venv/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(call timed,environment: .venv with contrastive-pretrain and what it needs,$(PYTHON) -m venv .venv && $(INSTALL) '.[curate$(,)data$(,)fast$(,)tensorboard]')
	@touch $@

.venv/.dev: .venv/.base
	$(call timed,environment: what the tests need,$(INSTALL) '.[dev]' && $(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --target .venv/webdataset-0.2 'webdataset==0.2.86')
	@touch $@
