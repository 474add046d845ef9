# make demo    trains code and long context on this machine, then prints which share of held-out exercises the model
#              solves, and the path of the report
# make chat    asks and answers on the terminal, with the newest stage of this machine's runs/local, or CHECKPOINT=DIR
# make serve   serves the same model to editors and other programs
# make check   lint, types and the fast tests; run it before every commit (under 3 minutes on two cores)
# make test    all tests (under 15 minutes on two cores)
# make lint    ruff, mypy, import-linter and codespell
# make setup   only installs the environment
# make pods    compiles every stage of every size for every chip and writes docs/pods.md (1.5 hours)
# make bench   runs benchmarks against other programs and writes their result files (half an hour); without arguments,
#              prints what they need
# make faults  tests kills, lost hosts, damaged files and full disks, measures the cost of saving, and writes the result
#              file (half an hour)
# make paper   shows every claim of the paper in small, with three seeds: runs/paper/report.html, docs/paper.md and the
#              result file (hours; it resumes)
# make lock    writes the requirement files from pyproject.toml (needs uv)

PYTHON ?= python3
BIN := .venv/bin
MAKEFLAGS += --no-print-directory

.PHONY: demo chat serve .trained check test lint setup pods bench faults paper lock

demo: setup
	$(BIN)/python xm_launch.py --gin_file=gin/lcft.gin

# The newest stage of runs/local that has a checkpoint; demo trains code and lcft.
trained = $(foreach stage,instruct lcft code,$(if $(wildcard runs/local/$(stage)/checkpoints/[0-9]*),runs/local/$(stage)))
CHECKPOINT ?= $(firstword $(trained))

chat: .venv/.installed .trained
	@$(if $(filter runs/local/%,$(CHECKPOINT)),echo "A model of size local is tiny and was trained for minutes: it" \
	  "has learned to write functions of a few lines, but no sense.")
	@$(if $(filter runs/local/code runs/local/lcft,$(CHECKPOINT)),echo "$(CHECKPOINT) was not trained on dialogues." \
	  "A stage that is: $(BIN)/python xm_launch.py --gin_file=gin/instruct.gin")
	@$(BIN)/python -m codellama_jax.generate chat --checkpoint=$(CHECKPOINT) $(FLAGS)

serve: .venv/.installed .trained
	@$(BIN)/python -m codellama_jax.serve --checkpoint=$(CHECKPOINT) $(FLAGS)

.trained:
	@test -n "$(CHECKPOINT)" || { echo "error: no trained stage in runs/local: make demo trains one, or CHECKPOINT=DIR" \
	  "names a model" >&2; exit 2; }

setup: .venv/.installed

.venv/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "installing the packages of requirements.txt into .venv (about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.installed-test: .venv/.installed requirements-test.txt requirements-build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt -r requirements-build.txt
	@touch $@

# The compiler is libtpu, which exists for Linux on x86-64; elsewhere the tests that need it are skipped.
.venv/.installed-compiler: .venv/.installed requirements-tpu.txt
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then grep '^libtpu' requirements-tpu.txt > .venv/compiler.txt; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target .venv/tpu_compiler -r .venv/compiler.txt; fi
	@touch $@

# Installed next to the environment, not into it; requirements-oracles.txt says why.
.venv/.installed-oracles: .venv/.installed-test requirements-oracles.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/oracles \
	  -r requirements-oracles.txt && PYTHONPATH=.venv/oracles $(BIN)/python -c 'import torch, transformers' || \
	  { rm -rf .venv/oracles; echo "no transformers and torch here: tests that compare with them are skipped"; }
	@touch $@

# A client of editors, in JavaScript: its test is skipped where node and npm are not installed.
ADAPTERS := @continuedev/openai-adapters@1.37.0
.venv/.installed-adapters: .venv/.installed-test
	@if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --prefix .venv/node $(ADAPTERS) || \
	  echo "$(ADAPTERS) cannot be installed here: the test that uses it is skipped"; fi
	@touch $@

test: .venv/.installed-test .venv/.installed-compiler .venv/.installed-oracles .venv/.installed-adapters
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

pods: .venv/.installed-compiler
	PYTHONPATH=.:.venv/tpu_compiler $(BIN)/python benchmarks/pods.py
	PYTHONPATH=.:.venv/tpu_compiler $(BIN)/python benchmarks/serving_pods.py

# TORCH_PYTHON and MAXTEXT_PYTHON are the interpreters of environments with the programs to compare with. The docstrings of
# the benchmarks describe how to create these environments.
bench: .venv/.installed-compiler
	@test -n "$(TORCH_PYTHON)$(MAXTEXT_PYTHON)$(TOKENIZER)" || { echo "make bench TORCH_PYTHON=..." \
	  "MAXTEXT_PYTHON=... TOKENIZER=tokenizer.model: give one or more; benchmarks/*.py say what they need" >&2; exit 2; }
	$(if $(TORCH_PYTHON),$(BIN)/python benchmarks/train_cpu.py --torch_python=$(TORCH_PYTHON) --out=benchmarks/train_cpu.md)
	$(if $(TORCH_PYTHON),$(BIN)/python benchmarks/cpu_products.py --torch_python=$(TORCH_PYTHON) \
	  --out=benchmarks/cpu_products.md)
	$(if $(MAXTEXT_PYTHON),PYTHONPATH=.venv/tpu_compiler $(BIN)/python benchmarks/maxtext.py \
	  --maxtext_python=$(MAXTEXT_PYTHON) --out=benchmarks/maxtext.md)
	$(if $(TOKENIZER),$(BIN)/python benchmarks/data.py --tokenizer=$(TOKENIZER) --out=benchmarks/data.md)
	$(if $(TOKENIZER),$(BIN)/python benchmarks/build.py --tokenizer=$(TOKENIZER) --out=benchmarks/build.md)

faults: .venv/.installed
	$(BIN)/python benchmarks/faults.py --out=benchmarks/faults.md

paper: .venv/.installed
	$(BIN)/python benchmarks/paper.py --out=runs/paper --result=benchmarks/paper.md --docs=docs/paper.md

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell -D - -D .codespell/retired_words.txt

COMPILE = uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock"

# requirements-oracles.txt is edited by hand: uv would lock torch's CUDA packages too.
lock:
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) --extra test -c requirements.txt pyproject.toml -o requirements-test.txt
	$(COMPILE) --extra build -c requirements.txt -c requirements-test.txt pyproject.toml -o requirements-build.txt
	$(COMPILE) --extra tpu -c requirements.txt pyproject.toml -o requirements-tpu.txt
