#!/usr/bin/env bash
# Samples clips of the bounce world with the checkpoint in examples/world: picture and sound together, a picture for a sound, a sound for a picture.
# Decodes them to watch and to hear, and measures the sync of clips that the model never saw, beside chance.
set -euo pipefail
cd "$(dirname "$0")"
source scripts/setup.sh
cargo build --release
ccl() { "${CARGO_TARGET_DIR:-target}/release/ccl" "$@"; }

mkdir -p demo
rm -rf demo/clips
ccl data synth -o demo/clips --clips 8 --seed 99
ccl world prompt --from demo/clips -o demo/inputs.safetensors
for task in joint a2v v2a; do
  ccl sample --model examples/world --inputs demo/inputs.safetensors --task "$task" --clip 16x8x4@128 \
    --guidance two-pass --scale-video 2 --scale-audio 2 --steps 20 -o "demo/$task.safetensors"
  ccl world decode --input "demo/$task.safetensors" --input demo/inputs.safetensors -o "demo/$task"
done
echo "watch and hear demo/{joint,a2v,v2a}.gif and .wav (.mp4 where there is an ffmpeg); 32 clips never seen, each task:"
ccl world eval --model examples/world --clips 32
