# Stateplane: two commands matter.
#   make demo   a NAT gateway that survives kill -9, on real packets, in one minute
#   make test   everything: format, lints, unit, property, simulator and real-packet tests
# Both first install what is missing (Debian packages; needs root).

CARGO ?= cargo
# Seeds that the test of the simulator runs; with 100,000 it also asks for every rare branch.
SIM_SEEDS ?= 100000
# Seconds that all fuzz targets have together; in `make test`, and in `make fuzz`.
FUZZ_TEST ?= 60
FUZZ ?= 600
# Options of `stateplane bench region` in `make bench-region`.
BENCH_REGION ?=
# Seeds of `make sim-long`.
SIM_LONG ?= 3000000

.PHONY: help demo test setup build lint check-unit fuzz labs sim sim-long model bench bench-region kills versions wheel miri deny clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile
	@echo "others: setup build lint check-unit fuzz labs sim sim-long model bench bench-region kills versions wheel miri deny clean"

setup:
	@scripts/setup

build: setup
	$(CARGO) build --release --bin stateplane

demo: build
	target/release/stateplane demo

test: setup lint
	SIM_SEEDS=$(SIM_SEEDS) $(CARGO) test --workspace
	scripts/fuzz $(FUZZ_TEST)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The tests that need neither root nor network namespaces.
check-unit:
	$(CARGO) test --workspace --lib

# Every decoder of outside bytes, longer than in `make test`.
fuzz: setup
	scripts/fuzz $(FUZZ)

# The labs on their own, from the optimised build.
labs: build
	target/release/stateplane lab run failover
	target/release/stateplane lab run asymmetric
	target/release/stateplane lab run store
	target/release/stateplane lab run store --durable --faults kill

sim: setup
	$(CARGO) run --release --bin stateplane -- sim --seeds 20000

# Hours: many seeds of the optimised build, and every broken rule hunted for.
sim-long: setup
	$(CARGO) run --profile sim --bin stateplane -- sim --seeds $(SIM_LONG)
	$(CARGO) run --profile sim --features mutations --bin stateplane -- sim --mutations

# The model checker's wide bounds: minutes to hours, and gigabytes.
model: setup
	$(CARGO) run --release -p stateplane-model --example check -- wide

bench: build
	target/release/stateplane bench nat
	target/release/stateplane bench datapath
	target/release/stateplane bench replication
	target/release/stateplane bench sequencer
	$(MAKE) bench-region

# Shared memory beside memcpy, sockets and iceoryx2, which is built for it (needs its crates); if it
# cannot be, its row is left out and the report says so.
bench-region: build
	-$(CARGO) build --release --manifest-path peers/iceoryx2/Cargo.toml --target-dir target/peers
	target/release/stateplane bench region $(BENCH_REGION) \
		$$(ls target/peers/release/stateplane-peer-iceoryx2 2>/dev/null | sed 's/^/--iceoryx2 /')

# A region's writer is killed 10,000 times at random points (minutes).
kills:
	$(CARGO) test --release -p stateplane-region --test kill -- --ignored --nocapture ten_thousand

# The Python reader of regions as a wheel, in target/wheels; the test builds one too, and reads a
# live region with it.
wheel:
	scripts/wheel target/wheels
	$(CARGO) test -p stateplane-region --test python

# A million versions of copied regions under loss, reordering and duplication (minutes).
versions:
	$(CARGO) test --release -p stateplane-region --lib -- --ignored --nocapture million_versions

# What Miri can run of the regions: it knows no memfd and no mapping, so the log of changes, names
# and messages (a minute). Needs a nightly toolchain:
# rustup toolchain install nightly --component miri,rust-src
miri:
	PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p stateplane-region --lib -- \
		dirty name:: sync::message broker::message

deny:
	@command -v cargo-deny >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check

clean:
	$(CARGO) clean
