PY := .venv/bin/python
STAMP := .venv/.installed
DEV := .venv/.dev
PYTEST := MPLBACKEND=Agg $(PY) -m pytest
# Compiling is pip's slowest step, as it does so on one core. Templates among the packages do not compile.
COMPILE := $(PY) -m compileall -qq -j 0 .venv/lib || true

.DEFAULT_GOAL := help
.PHONY: demo test test-cluster lint types slow gpu nest bench-engines bench-inference bench-gpu bench-gpu-static bench-connectome bench-campaign tutorials wheel clean help

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || "$$(python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || command -v python3)" -m venv .venv
	$(PY) -m pip install -c constraints.txt --upgrade pip
	$(PY) -m pip install --no-compile torch==2.13.0 -c constraints.txt
	$(PY) -m pip install --no-compile -c constraints.txt -e .
	$(COMPILE)
	touch $@

$(DEV): $(STAMP)
	$(PY) -m pip install --no-compile -c constraints.txt -e '.[dev]'
	$(COMPILE)
	touch $@

.venv/.bench: $(DEV)
	$(PY) -m pip install -c constraints.txt -e '.[bench]'
	touch $@

.venv/.bench-inference: $(DEV)
	$(PY) -m pip install -c constraints.txt -e '.[bench-inference]'
	$(PY) -m pip install --no-deps sbibm==1.1.0
	touch $@

demo: $(STAMP)  ## infer a circuit from a recording, end to end, into demo_output/
	$(PY) -m sbi_circuits demo --out demo_output

test: lint types  ## ruff, mypy, then every test that is quick and needs no GPU or cluster
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder

lint: $(DEV)  ## ruff
	$(PY) -m ruff check .

types: $(DEV)  ## mypy
	$(PY) -m mypy

slow: $(DEV)  ## the tests marked slow
	$(PYTEST) -m slow -n 2 --dist loadfile --no-loadscope-reorder

gpu: $(DEV)  ## the tests marked gpu (needs a CUDA device)
	$(PYTEST) -m gpu

bench-engines: .venv/.bench  ## time every engine on the same simulations (ARGS="--only brunel --write" and the like)
	$(PY) -m benchmarks.engines $(ARGS)

bench-gpu:  ## measure the engine kernel[cuda] (needs a GPU, torch, numba, numba-cuda, numpy, scipy; PY=python3 outside .venv)
	$(PY) benchmarks/gpu.py $(ARGS)

bench-gpu-static:  ## what the CUDA kernels are compiled to, without a device (in a .venv-static of its own; ARGS="--only brunel")
	test -x .venv-static/bin/python || $(PY) -m venv .venv-static
	.venv-static/bin/python -m pip install -q torch==2.13.0 -c constraints.txt
	.venv-static/bin/python -m pip install -q -c constraints.txt -e '.[cuda-static]'
	.venv-static/bin/python -W ignore benchmarks/gpu_static.py $(ARGS)

bench-inference: .venv/.bench-inference  ## posteriors of this project and of sbi on the tasks of sbibm (ARGS="--budgets 1000")
	$(PY) -W ignore -m benchmarks.inference $(ARGS)

test-cluster: $(DEV)  ## campaigns on a Slurm of one node, started and ended by the tests (apt-get install slurm-wlm munge)
	$(PYTEST) -m cluster tests/cluster

bench-campaign: $(DEV)  ## what a campaign costs beside its simulations; resuming 10^6 of them (ARGS="--write")
	$(PY) -m benchmarks.campaign $(ARGS)

bench-connectome: $(DEV)  ## measure connectome-constrained circuits (ARGS="step figures task --write")
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.connectome $(ARGS)

nest: .venv/.bench  ## the comparison with NEST, about twenty minutes
	$(PYTEST) -m "nest or slow" tests/test_nest.py

tutorials: $(DEV)  ## execute every tutorial into output/tutorials/
	mkdir -p output/tutorials
	set -e; for source in tutorials/*.py; do \
	    notebook=output/tutorials/$$(basename $$source .py).ipynb; \
	    $(PY) -m jupytext --to ipynb --set-kernel python3 --output $$notebook $$source; \
	    MPLBACKEND=module://matplotlib_inline.backend_inline .venv/bin/jupyter-execute --inplace $$notebook; \
	done

wheel: $(DEV)  ## build the wheel into dist/
	$(PY) -m pip wheel --no-deps --wheel-dir dist .

clean:  ## remove what make has built, the virtual environment too
	rm -rf .venv .venv-static build dist output demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
