# Stateplane: two commands matter.
#   make demo   a NAT gateway that survives kill -9, on real packets, in one minute
#   make test   everything: format, lints, unit, property, simulator and real-packet tests
# Both first install what is missing (Debian packages; needs root).

CARGO ?= cargo
# Seeds that the test of the simulator runs. `make test SIM_SEEDS=100000` also asks for every
# rare branch; it finds the standstills that ARCHITECTURE.md lists as known.
SIM_SEEDS ?= 10000

.PHONY: help demo test setup build lint check-unit labs sim bench deny clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile
	@echo "others: setup build lint check-unit labs sim bench deny clean"

setup:
	@scripts/setup

build: setup
	$(CARGO) build --release --bin stateplane

demo: build
	target/release/stateplane demo

test: setup lint
	SIM_SEEDS=$(SIM_SEEDS) $(CARGO) test --workspace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The tests that need neither root nor network namespaces.
check-unit:
	$(CARGO) test --workspace --lib

# The labs on their own, from the optimised build.
labs: build
	target/release/stateplane lab run failover
	target/release/stateplane lab run asymmetric

sim: setup
	$(CARGO) run --release --bin stateplane -- sim --seeds 20000

bench: build
	target/release/stateplane bench nat
	target/release/stateplane bench replication

deny:
	@command -v cargo-deny >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check

clean:
	$(CARGO) clean
