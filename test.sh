#!/usr/bin/env bash
# Runs the whole suite; arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")"
source scripts/setup.sh
source scripts/gpu.sh
source scripts/browser.sh
cargo test --release --workspace "$@"
