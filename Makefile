# From a fresh clone: `make demo`, `make test`. Needs Python >= 3.11, make and a C compiler; nothing else has to be installed.
# pip's own environment variables and configuration apply (PIP_INDEX_URL, PIP_FIND_LINKS, ...).

PYTHON ?= python3
RUN ?= runs/demo
RECIPE ?= demo
BUNDLE ?= $(RUN)/demo.comosvc
# --synthetic-only: without the recorded voices of the flite and festival packages.
CORPUS_FLAGS ?=
# The comparison of systems: its own run folder, since it takes the content encoder and the vocoder of the shipped voice.
SYSTEMS_RUN ?= runs/systems
SYSTEMS_TABLE ?= benchmarks/results/quality-systems.json
# Where torch's CPU build comes from if the caller's own indexes do not have it. PyTorch's documented index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

GPU_TABLE ?= benchmarks/results/rtf-gpu.json

VENV := .venv
DEMO := .venv-demo
GPU := .venv-gpu
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu lint docs demo-voice bench bench-quality

help:
	@echo "make demo        convert the shipped clips with the shipped voice; needs no torch   -> demo-out/"
	@echo "make test        every test"
	@echo "make test-gpu    parity and speed on an NVIDIA GPU, in an environment of its own           -> $(GPU_TABLE)"
	@echo "make lint        ruff and pyright"
	@echo "make docs        the documentation; warnings are errors                               -> site/"
	@echo "make demo-voice  train the demo voice again from nothing, up to a bundle            -> $(BUNDLE)"
	@echo "make bench-quality  ours beside a flow and a DiffSVC shape, trained alike from nothing    -> $(SYSTEMS_TABLE)"
	@echo "make bench       the quality table of the shipped voice, with $(RUN) if it is there"

demo: $(DEMO)/.installed
	$(DEMO)/bin/python -m comosvc.benchmarks.demo

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q $(PYTEST_ARGS)

# Asked of the driver before gigabytes are installed. What fails does not keep the rest from being tried and measured.
test-gpu:
	@$(PYTHON) -c 'import ctypes, sys; sys.exit(ctypes.CDLL("libcuda.so.1").cuInit(0))' 2>/dev/null \
		|| { echo "error: no NVIDIA GPU with a working driver on this machine; nothing was tested or measured"; exit 1; }
	@$(MAKE) --no-print-directory $(GPU)/.installed
	failed=0; \
	$(GPU)/bin/comosvc-doctor --provider cuda || failed=1; \
	$(GPU)/bin/python -m pytest -q -m gpu -rs $(PYTEST_ARGS) || failed=1; \
	$(GPU)/bin/comosvc-bench rtf --preset gpu --json $(GPU_TABLE) || failed=1; \
	exit $$failed

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

# The reference is read from the source, under the names that the packages have when installed.
docs: $(VENV)/.installed
	@mkdir -p build/docs/source/comosvc
	@ln -sfn $(CURDIR)/runtime build/docs/source/comosvc/runtime
	$(VENV)/bin/python .ci/docs.py messages
	$(VENV)/bin/zensical build --strict --clean

demo-voice: $(VENV)/.installed
	$(VENV)/bin/comosvc-train corpus -c $(RECIPE) -o $(RUN) $(CORPUS_FLAGS)
	$(VENV)/bin/comosvc-train prepare -c $(RECIPE) -o $(RUN)
	$(VENV)/bin/comosvc-train content -c $(RECIPE) -o $(RUN) --resume
	$(VENV)/bin/comosvc-train vocoder -c $(RECIPE) -o $(RUN) --resume
	$(VENV)/bin/comosvc-train teacher -c $(RECIPE) -o $(RUN) --resume
	$(VENV)/bin/comosvc-train student -c $(RECIPE) -o $(RUN) --resume
	$(VENV)/bin/comosvc-train student -c $(RECIPE) -o $(RUN) --resume --published
	$(VENV)/bin/comosvc-export bundle $(RUN) -o $(BUNDLE)

bench: $(VENV)/.installed
	$(VENV)/bin/comosvc-bench quality $(if $(wildcard $(RUN)/student),--run $(RUN))

# 36 minutes of processor time on one core. Stopped and run again, it goes on where it stopped; only the judging at
# the end, ten minutes, starts over. The recorded voices would serve nothing but a content encoder of its own.
bench-quality: $(VENV)/.installed
	$(VENV)/bin/comosvc-train corpus -c $(RECIPE) -o $(SYSTEMS_RUN) --synthetic-only
	$(VENV)/bin/comosvc-train prepare -c $(RECIPE) -o $(SYSTEMS_RUN)
	$(VENV)/bin/comosvc-bench systems-train -c $(RECIPE) -o $(SYSTEMS_RUN)
	$(VENV)/bin/comosvc-bench systems-quality -c $(RECIPE) -o $(SYSTEMS_RUN) --json $(SYSTEMS_TABLE)

# A stamp per environment: set up once, and again only when what is to be installed changes.
$(DEMO)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(DEMO): the runtime without torch"
	@test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	@$(DEMO)/bin/python $(PIP_INSTALL) --editable ".[cpu,plot]"
	@touch $@

# torch first and by its local version: the default build of the same version on Linux would bring the CUDA packages along.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): everything, torch $(TORCH) for the CPU; a few minutes the first time"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP_INSTALL) "torch==$(TORCH)+cpu" 2>/dev/null \
		|| $(VENV)/bin/python $(PIP_INSTALL) --extra-index-url $(TORCH_INDEX) "torch==$(TORCH)"
	@$(VENV)/bin/python $(PIP_INSTALL) --editable ".[dev]"
	@touch $@

# As above, with torch and ONNX Runtime for CUDA. The latter's two wheels overwrite each other: one comes along
# and takes files of the other with it when it goes, so that both have to go first.
$(GPU)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(GPU): everything, for an NVIDIA GPU; some gigabytes"
	@test -x $(GPU)/bin/python || $(PYTHON) -m venv $(GPU)
	@# CUDA's compiler comes with torch there, in torch's version of it.
	@grep -v nvidia-cuda-nvrtc constraints.txt > $(GPU)/constraints.txt
	@$(GPU)/bin/python $(subst constraints.txt,$(GPU)/constraints.txt,$(PIP_INSTALL)) "torch==$(TORCH)" --editable ".[dev]"
	@$(GPU)/bin/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	@$(GPU)/bin/python $(subst constraints.txt,$(GPU)/constraints.txt,$(PIP_INSTALL)) "onnxruntime-gpu[cuda,cudnn]"
	@touch $@
