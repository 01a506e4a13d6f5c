# Everything a user or a contributor runs. Only Python 3.11+ is needed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK ?= data/full_size
OUT ?= data/bench-gpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: serve test fuzz check bench bench-gpu bench-full-size parameters demo-model-report demo-addons demo-addons-report format clean

serve: $(VENV)/.installed  ## install, migrate, serve on HOST:PORT (127.0.0.1:8000)
	@$(BIN)/sdapi serve

test: $(VENV)/.dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile

fuzz: $(VENV)/.dev  ## send 5,000 requests nobody would send to a server; `make test` sends 300
	SDAPI_FUZZ_CASES=5000 $(BIN)/pytest tests/fuzz

check: $(VENV)/.dev  ## formatting, lints, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## print the figures the README claims
	$(BIN)/python -m benchmarks.report

bench-gpu: $(VENV)/.dev  ## what this GPU gives, in ten minutes: SD 1.5 and SDXL in full size against diffusers; a report into OUT
	$(BIN)/python -m benchmarks.gpu --work $(WORK) --out $(OUT)

bench-full-size: $(VENV)/.dev  ## what SD 1.5 and SDXL take on this CPU; writes 9 GB of random weights into WORK
	$(BIN)/python -m benchmarks.full_size --work $(WORK)

parameters: $(VENV)/.dev  ## put the table of parameters into the README
	$(BIN)/python -m sdapi.parameter_table README.md

demo-model-report: $(VENV)/.dev  ## judge the embedded model over held-out prompts; writes a contact sheet
	cd models/demo && $(CURDIR)/$(BIN)/python -m recipe.report

demo-addons: $(VENV)/.dev  ## train the embedded model's control net and LoRA anew; half an hour on two cores
	cd models/demo && $(CURDIR)/$(BIN)/python -m recipe.train_controlnet --out assets/controlnets/demo-canny
	cd models/demo && $(CURDIR)/$(BIN)/python -m recipe.train_lora --out assets/loras/demo-night.safetensors

demo-addons-report: $(VENV)/.dev  ## judge both over held-out scenes; writes a contact sheet
	cd models/demo && $(CURDIR)/$(BIN)/python -m recipe.addons_report

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# requirements.lock pins every version, for the server and for the tools.
$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
