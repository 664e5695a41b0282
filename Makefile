# Two commands on a fresh Debian 12, as root: `make demo` and `make test`.
# Each installs what is missing (OS packages from bindep.txt, a virtual environment in .venv; for
# what needs Neutron another one in .venv-neutron) and then runs; once everything is there, that
# costs less than a second.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More words for `ovs-l2pop demo` and for pytest, say: make unit PYTEST_ARGS='-k table -x'
DEMO_ARGS ?=
PYTEST_ARGS ?=
AGAINST ?=
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 3600
SOAK_SEED ?= $(shell shuf -i 1-999999 -n 1)

# The name of the stamp carries what decides the content of .venv: a `git checkout` that changes
# only times installs nothing, one that changes setup.cfg does.
STAMP := $(VENV)/.installed-$(shell cat setup.cfg pyproject.toml lab/setup.cfg | sha256sum | cut -c1-12)
RYU_WHEEL := $(VENV)/wheels/ryu-4.34-py3-none-any.whl

# Neutron brings a hundred libraries of its own; the daemon must run without any of them.
NEUTRON_VENV := .venv-neutron
NEUTRON_NEEDS := tests/integration/requirements.txt
NEUTRON_STAMP := $(NEUTRON_VENV)/.installed-$(shell cat setup.cfg $(NEUTRON_NEEDS) | sha256sum | cut -c1-12)

# Runs a command silently; shows what it printed when it fails. To be named first in a recipe.
define quietly
quietly() {
    local log status=0
    log=$$(mktemp)
    "$$@" >"$$log" 2>&1 </dev/null || { status=$$?; cat "$$log" >&2; echo "failed: $$*" >&2; }
    rm -f "$$log"
    return $$status
}
endef

# Real switches, kernels and clocks: what fails on a busy machine gets one more try, seen by all.
# To be named first in a recipe.
define twice
twice() { "$$@" || { echo "== what failed, once more"; "$$@" --last-failed --last-failed-no-failures none; }; }
endef

.PHONY: help
help:  ## this list
	@echo "make TARGET, where TARGET is one of"
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r target text; do
	    printf '  %-11s %s\n' "$$target" "$$text"
	done

.PHONY: demo
demo: venv  ## show it: hosts in network namespaces, real Open vSwitch (root; DEMO_ARGS=...)
	@$(BIN)/ovs-l2pop demo $(DEMO_ARGS)

.PHONY: test
test: need-root lint venv-neutron os-packages-functional  ## everything that CI runs: lint, then all tests
	@$(twice)
	# A file's tests stay together: they share hosts. Two files at a time, as there are two cores.
	twice $(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/fuzz tests/packaging tests/functional $(PYTEST_ARGS)
	$(MAKE) flow-tunnels neutron integration

.PHONY: unit
unit: venv  ## unit tests
	@$(BIN)/python -m pytest tests/unit tests/fuzz $(PYTEST_ARGS)

.PHONY: packaging
packaging: venv  ## the wheel in an empty virtual environment, and what .venv must hold
	@$(BIN)/python -m pytest tests/packaging $(PYTEST_ARGS)

.PHONY: functional
functional: need-root venv os-packages-functional  ## tests against a real Open vSwitch in network namespaces (root)
	@$(BIN)/python -m pytest tests/functional $(PYTEST_ARGS)

# Whatever tells how frames go.
FRAMES = $(addprefix tests/functional/test_,$(addsuffix .py,broadcast_limit conformance flood_shards \
	forwarding isolation learning origins packet_too_big responders))

.PHONY: flow-tunnels
flow-tunnels: need-root venv os-packages-functional  ## how frames go, with one tunnel port for all VTEPs
	@$(twice)
	twice $(BIN)/python -m pytest -n 2 --dist loadfile --tunnel-ports flow $(FRAMES) $(PYTEST_ARGS)

.PHONY: neutron
neutron: venv-neutron  ## the mechanism driver in Neutron's plugin, in one process
	@$(twice)
	twice $(NEUTRON_VENV)/bin/python -m pytest -n 2 tests/neutron $(PYTEST_ARGS)

.PHONY: integration
integration: need-root venv venv-neutron  ## a cloud: real Neutron, RabbitMQ, MariaDB, Open vSwitch (root)
	@$(twice)
	twice $(BIN)/python -m pytest -n 2 --dist loadfile tests/integration $(PYTEST_ARGS)

.PHONY: soak
soak: need-root venv venv-neutron  ## faults at random for an hour (root; SOAK_SECONDS=3600, SOAK_SEED=...)
	@SOAK_SECONDS=$(SOAK_SECONDS) SOAK_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -s tests/integration/test_soak.py $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: venv  ## fuzz what reads messages and switches' answers (FUZZ_SECONDS=60 for each)
	@$(quietly)
	quietly $(BIN)/python -m pip install -e '.[fuzz]'
	for target in messages server openflow; do
	    echo "== $$target"
	    $(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$(FUZZ_SECONDS) -verbosity=0
	done

.PHONY: mutants
mutants: venv  ## change what decides, bit by bit, and list what no unit test notices (half an hour)
	@$(quietly)
	quietly $(BIN)/python -m pip install -e '.[mutants]'
	$(BIN)/mutmut run
	$(BIN)/mutmut results

.PHONY: bench
bench: need-root venv  ## measurements (root; AGAINST=<commit>: beside that version, in one run)
	@$(quietly)
	if [ -z "$(AGAINST)" ]; then
	    $(BIN)/python -m pytest tests/bench -s $(PYTEST_ARGS)
	    exit
	fi
	other=$$(mktemp -d)
	trap 'rm -rf "$$other"' EXIT
	mkdir "$$other/source"
	git archive "$(AGAINST)" | tar -x -C "$$other/source"
	quietly $(BIN)/python -m pip install --no-deps --target "$$other/site" "$$other/source"
	AGAINST_SITE="$$other/site" $(BIN)/python -m pytest tests/bench/test_against.py tests/bench/test_frame_times.py -s $(PYTEST_ARGS)

.PHONY: lint
lint: venv  ## ruff check, ruff format --check, the contract of imports, mypy
	@$(quietly)
	echo "== ruff, imports, mypy"
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet || { echo "run: $(BIN)/ruff format" >&2; exit 1; }
	quietly $(BIN)/lint-imports
	# pytest can't tell two modules of one name apart when it runs their folders together.
	same=$$(find tests -mindepth 2 -maxdepth 2 -name '*.py' -printf '%f\n' | grep -v -e '^conftest.py$$' -e '^__init__.py$$' | sort | uniq -d)
	[ -z "$$same" ] || { echo "two test modules of one name: $$same" >&2; exit 1; }
	# One folder at a time: each has a conftest.py of its own.
	for place in ovs_l2pop lab/l2pop_lab tests/*/; do $(BIN)/mypy --no-error-summary "$$place"; done

.PHONY: sample
sample: venv  ## write etc/*.sample from the options' help
	@for config in etc/oslo-config-generator/*; do
	    $(BIN)/oslo-config-generator --config-file "$$config"
	    sed -n 's/^output_file = /wrote /p' "$$config"
	done

.PHONY: doc
doc: venv  ## write doc/pipeline.md from flows/
	@$(BIN)/python -c 'from ovs_l2pop import resources
	from ovs_l2pop.backends.openvswitch import pipeline
	from ovs_l2pop.cli.pipeline import markdown
	print(*markdown(pipeline.load(resources.flows())), sep="\n")' >doc/pipeline.md
	echo "wrote doc/pipeline.md"

.PHONY: venv
venv: $(STAMP)  ## install what is missing, run nothing

.PHONY: venv-neutron
venv-neutron: $(NEUTRON_STAMP)  ## install Neutron, RabbitMQ and MariaDB for the tests, run nothing

.PHONY: clean
clean:  ## remove build products and caches (but no virtual environment)
	@rm -rf build dist *.egg-info .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: need-root
need-root:
	@if [ "$$(id -u)" != 0 ]; then
	    echo "This needs root: it makes network namespaces. Try: sudo make $(MAKECMDGOALS)" >&2
	    exit 1
	fi

# Installs the OS packages of bindep.txt: those of every profile, and those of $$profile. Only asks
# dpkg when all is there (20 ms), so it needs no stamp and sees a removed package too.
define os_packages
wanted=$$(sed -nE "s/^([a-z0-9][^ ]*) +\[($$profile )?platform:dpkg\].*/\1/p" bindep.txt)
if ! command -v dpkg-query >/dev/null; then
    echo "Not a Debian system; please see to it that these are there:" $$wanted >&2
    exit 0
fi
missing=
for package in $$wanted; do
    state=$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null || true)
    [ "$$state" = installed ] || missing="$$missing $$package"
done
[ -n "$$missing" ] || exit 0
if [ "$$(id -u)" != 0 ]; then
    echo "OS packages are missing. As root: apt-get install --no-install-recommends$$missing" >&2
    exit 1
fi
echo "== installing OS packages:$$missing"
# Some would start system-wide daemons. Nothing here uses them: exit 101 from this file forbids
# it, for as long as the installation takes.
policy=/usr/sbin/policy-rc.d
if [ ! -e $$policy ]; then
    trap "rm -f $$policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >$$policy
    chmod 755 $$policy
fi
export DEBIAN_FRONTEND=noninteractive
quietly apt-get update
quietly apt-get install --yes --no-install-recommends $$missing
endef

.PHONY: os-packages
os-packages:
	@$(quietly)
	profile=
	$(os_packages)

.PHONY: os-packages-neutron
os-packages-neutron: | os-packages
	@$(quietly)
	profile=neutron
	$(os_packages)

.PHONY: os-packages-functional
os-packages-functional: | os-packages
	@$(quietly)
	profile=functional
	$(os_packages)

# Leaves an existing .venv's versions alone as far as setup.cfg allows them.
$(STAMP): $(RYU_WHEEL) | os-packages
	@$(quietly)
	if [ ! -x $(BIN)/python ]; then
	    echo "== making the virtual environment $(VENV)"
	    quietly $(PYTHON) -m venv $(VENV)
	fi
	echo "== installing ovs-l2pop and its Python libraries into $(VENV)"
	quietly $(BIN)/python -m pip install --editable '.[test]' --editable lab $(RYU_WHEEL)
	rm -f $(VENV)/.installed-*
	touch $@

# ryu, our second OpenFlow library, is published as source only, and its setup.py wants a setuptools
# of 2021: its wheel is built with that one in a virtual environment which is thrown away.
$(RYU_WHEEL): | os-packages
	@$(quietly)
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	    echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) -V)." \
	         "Another one: make PYTHON=/path/to/python3.11" >&2
	    exit 1
	fi
	echo "== building the wheel of ryu 4.34"
	old=$$(mktemp -d)
	trap 'rm -rf "$$old"' EXIT
	quietly $(PYTHON) -m venv "$$old"
	quietly "$$old/bin/python" -m pip install 'setuptools<58' wheel pbr
	quietly "$$old/bin/python" -m pip wheel --no-build-isolation --no-deps \
	    --wheel-dir $(@D) ryu==4.34

$(NEUTRON_STAMP): | os-packages-neutron
	@$(quietly)
	if [ ! -x $(NEUTRON_VENV)/bin/python ]; then
	    echo "== making the virtual environment $(NEUTRON_VENV)"
	    quietly $(PYTHON) -m venv $(NEUTRON_VENV)
	fi
	echo "== installing ovs-l2pop and Neutron into $(NEUTRON_VENV)"
	quietly $(NEUTRON_VENV)/bin/python -m pip install --editable . -r $(NEUTRON_NEEDS)
	rm -f $(NEUTRON_VENV)/.installed-*
	touch $@
