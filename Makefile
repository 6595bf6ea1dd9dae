# The commands of this folder. Each makes what it needs itself: see `make help`.

PYTHON ?= $(firstword $(wildcard $(foreach name,python3 python3.11 python3.12 python3.13 python3.10,\
  $(addsuffix /$(name),$(subst :, ,$(PATH))))))
ARGS ?=

BOOTSTRAP = $(if $(PYTHON),,$(error Python 3 is missing: apt-get install python3))$(PYTHON) scripts/bootstrap.py
JAZZY = $(BOOTSTRAP) run jazzy --

# The tests' tensors are small: more threads would only wait for each other. A worker a core, but
# not more than 8, for each loads PyTorch. For a few tests ARGS="-n 0 -k words" starts sooner.
TEST = -- env OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 8 --dist worksteal

.NOTPARALLEL:
.PHONY: help demo test test-jazzy test-kilted build shell lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo:  ## run the nodes on a moving camera; make demo ARGS="--images DIR" for your own
	@$(JAZZY) python -m kpfeat_ros.demo $(ARGS)

test:  ## run every test on ROS 2 Jazzy, then those of the nodes on Kilted
	@code=0; for each in jazzy kilted; do $(MAKE) --no-print-directory test-$$each || code=$$?; \
	done; exit $$code

test-jazzy:  ## run every test on Jazzy; make test-jazzy ARGS="-k words" for some
	@echo 'kpfeat: tests on ROS 2 Jazzy'
	@$(BOOTSTRAP) test jazzy $(TEST) $(ARGS)

test-kilted:  ## run the tests of the nodes on Kilted
	@echo 'kpfeat: tests of the nodes on ROS 2 Kilted'
	@$(BOOTSTRAP) test kilted $(TEST) test/ros $(ARGS)

build:  ## only make the environment (.venv) and compile the messages (install)
	@$(BOOTSTRAP) prepare jazzy

shell:  ## open a shell in which kpfeat, rclpy and the messages are there
	@$(JAZZY) $(or $(SHELL_PROGRAM),bash)

lint:  ## check style
	@$(JAZZY) ruff check .
	@$(JAZZY) ruff format --check .

format:  ## put into the house form
	@$(JAZZY) ruff check --fix .
	@$(JAZZY) ruff format .

clean:  ## remove what was made: environments, compiled messages, results of the demo
	rm -rf .venv .venv-kilted .venv.lock .venv.log .venv-kilted.log build build-kilted \
	  install install-kilted log demo_output kpfeat.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
