#!/usr/bin/env bash
# Samples a small clip, picture and sound together, from the checkpoint in examples/tiny; arguments go to `ccl sample`.
set -euo pipefail
cd "$(dirname "$0")"
source scripts/setup.sh
cargo run --release -- sample \
  --model examples/tiny --inputs examples/tiny/inputs.safetensors \
  --task joint --guidance two-pass --clip 5x8x8@29 --steps 50 -o demo.safetensors "$@"
