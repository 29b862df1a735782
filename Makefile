# fedgtv. Two commands do everything: `make demo` and `make test`.
# Each sets up by itself; `make` alone lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
SITE   ?= demo-output/phantom-cpu-seed0-embedded/sites/hospital-b
DATA   ?=
PACKS  ?=
TRANSPORT ?= embedded
SEED   ?= 0
SEEDS  ?= 3
PORT   ?= 8501

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # without bytecode pytest rewrites every test anew, in each worker

.DEFAULT_GOAL := help
.PHONY: help setup demo test check unit journey bench bench-ui screenshots ui clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with everything (does nothing when it is current)

$(STAMP): pyproject.toml scripts/setup.sh scripts/fetch_axe.py
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	@touch $@

demo: $(STAMP) ## run a whole study and print its table; DATA=sts-pack for real tumours, TRANSPORT=flower
	@$(BIN)/fedgtv-evaluate demo --transport $(TRANSPORT) --seed $(SEED) $(if $(DATA),--data "$(DATA)")

test: $(STAMP) check unit journey ## everything: checks, unit tests, journeys

check: $(STAMP) ## style, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP) ## unit tests
	$(BIN)/python -m pytest -q -m "not journey" -n 2

journey: $(STAMP) ## whole paths with real components
	$(BIN)/python -m pytest -q -m journey -n 2 --dist loadgroup

bench: $(STAMP) ## the benchmarks; PACKS=FOLDER takes real images where they can
	@$(BIN)/python -c 'import FastGeodis' 2>/dev/null || echo "bench: without FastGeodis, see docs/results/interactive.md"
	$(BIN)/fedgtv-evaluate benchmark interactive-speed $(if $(PACKS),--packs "$(PACKS)") --json benchmark-output/interactive-speed.json
	$(BIN)/fedgtv-evaluate benchmark few-label-speed --json benchmark-output/few-label-speed.json
	$(BIN)/fedgtv-evaluate benchmark ingest-speed --json benchmark-output/ingest-speed.json
	$(BIN)/fedgtv-evaluate benchmark selection-speed --json benchmark-output/selection-speed.json
	$(BIN)/fedgtv-evaluate benchmark metrics-speed --json benchmark-output/metrics-speed.json
	$(BIN)/fedgtv-evaluate benchmark federation-scale --json benchmark-output/federation-scale.json
	$(BIN)/fedgtv-evaluate benchmark phantom-study --seeds $(SEEDS) --json benchmark-output/phantom-study.json

bench-ui: $(STAMP) ## how quick the viewer is in a browser, with the limits it must keep
	@$(BIN)/python -m tests.bench_ui --json benchmark-output/ui-speed.json

screenshots: $(STAMP) ## pictures of the pages for the README, made by the tests
	FEDGTV_SCREENSHOTS=$(CURDIR)/docs/screenshots $(BIN)/python -m pytest -q tests/journeys/test_ui_browser.py tests/journeys/test_report_browser.py

ui: $(STAMP) ## open the clinical UI of the demo, or of one site: make ui SITE=HOME [PORT=8501]
	@test -f "$(SITE)/site.toml" || { \
		echo "ui: no site in $(SITE): run 'make demo' first, or give SITE=HOME" >&2; exit 2; }
	@$(BIN)/python -m clinical_ui --home "$(SITE)" --port $(PORT)

clean: ## remove the demo's and the benchmarks' output
	rm -rf demo-output benchmark-output
