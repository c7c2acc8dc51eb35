# The two commands a newcomer needs. Everything else is `cargo xtask --help`.
#
# All builds use the release profile, so that llama.cpp is compiled once, and all
# build the whole workspace, so that cargo resolves the same features every time.

export PATH := $(HOME)/.cargo/bin:$(PATH)
SEXTANT := $(or $(CARGO_TARGET_DIR),target)/release/sextant
MODEL ?=
# Optional back ends: FEATURES=vulkan (docs/gpu.md).
FEATURES ?=

.PHONY: help setup ui build run test

help:
	@echo "make run    build, fetch a small model if there is none, serve it on 127.0.0.1"
	@echo "            (MODEL=reference picks another: see 'sextant pull --help')"
	@echo "make test   the whole of CI: format, lints, tests, SDK suites, fuzzing"
	@echo "make build  the release binary: $(SEXTANT)"
	@echo "            (FEATURES=vulkan adds a back end for GPUs: see docs/gpu.md)"
	@echo "make ui     only the web page, which the binary embeds; needs node and npm"
	@echo "make setup  only the Debian packages that the build needs"

setup:
	@sh scripts/setup.sh

ui: setup
	@sh scripts/ui.sh

build: ui
	@test -x $(SEXTANT) || echo "building Sextant and llama.cpp; the first time takes some minutes" >&2
	cargo build --release --locked --workspace $(if $(FEATURES),--features $(FEATURES))

run: build
	@sh scripts/run.sh $(SEXTANT) $(MODEL)

test: setup
	@echo "building the tooling, then running all of CI" >&2
	cargo xtask ci
