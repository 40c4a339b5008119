#!/usr/bin/env bash
# Holds cuda and wgpu against the reference cases and times denoising steps, on whatever GPU this machine has.
#
#   benches/gpu/run.sh BINARY [--software]
#
# BINARY is a stripped `ccl` (strip -o BINARY target/release/ccl), under 60 MB; nothing is built here. Results go to
# benches/results/<date>-<device>.txt and to standard output. The exit code is 1 where a case fails or where there is no GPU.
# --software takes a software adapter for a GPU, to try the script itself: its results are named dry-run-<device>.txt, say so, and are
# ignored by git.
#
# CUDA kernels are compiled on the machine: libnvrtc and the CUDA headers must be there. Where there is no toolkit, CCL_NVRTC_DIR
# names a directory with lib/libnvrtc.so.13 and include/ (test.sh puts one into target/nvrtc/nvidia/cu13).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
limit=60000000 # bytes of the binary

fail() {
  echo "error: $*" >&2
  exit 1
}

[ $# -ge 1 ] || { echo "usage: benches/gpu/run.sh BINARY [--software]" >&2; exit 2; }
binary=$(realpath "$1")
[ -x "$binary" ] || fail "$1 is no program"
size=$(stat -c %s "$binary")
[ "$size" -le $limit ] || fail "$1 has $size bytes, more than $limit: strip it"
kinds='[^()]*gpu[^()]*' software=
case "${2:-}" in
  '') ;;
  --software) kinds="$kinds|software adapter" software=yes ;;
  *) fail "there is no option $2" ;;
esac
if [ -n "${CCL_NVRTC_DIR:-}" ]; then
  export CUDA_PATH=${CUDA_PATH:-$CCL_NVRTC_DIR} LD_LIBRARY_PATH=$CCL_NVRTC_DIR/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

# `backend: name (kind)` of each backend that has a GPU.
listing=$("$binary" devices)
cuda=$(sed -nE "s/^cuda: (.*) \(($kinds)\)\$/\1/p" <<<"$listing" | head -1)
wgpu=$(sed -nE "s/^wgpu: (.*) \(($kinds)\)\$/\1/p" <<<"$listing" | head -1)
[ -n "$cuda$wgpu" ] || fail "there is no GPU here; \`ccl devices\` lists:
$listing"
device=${cuda:-$wgpu}

slug=$(tr '[:upper:]' '[:lower:]' <<<"$device" | sed -E 's/[^a-z0-9]+/-/g; s/^-|-$//g')
mkdir -p "$root/benches/results"
results=$root/benches/results/$(date -u +%F)-$slug.txt
if [ -n "$software" ]; then results=$root/benches/results/dry-run-$slug.txt; fi
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
failed=0

# section TITLE
section() { printf '\n== %s\n' "$1"; }

# ccl ARGUMENT...: runs the program, with its command line above what it says.
ccl() {
  # Paths of this machine are nobody's business.
  printf '\n$ ccl %s\n' "$(sed -e "s|$root/||g; s|$models/||g" <<<"$*")"
  timeout 900 "$binary" "$@" 2>"$models/log" && return
  local code=$?
  tail -5 "$models/log"
  echo "exit code $code"
  failed=1
}

# parity BACKEND DTYPE TOLERANCE: every case.
parity() {
  local case
  for case in "$root"/tests/cases/*/; do
    case=${case%/}
    ccl verify --model "$case" --inputs "$case/inputs.safetensors" --expected "$case/expected.safetensors" \
      --backend "$1" --dtype "$2" --tolerance "$3"
  done
}

# model NAME VIDEO AUDIO LAYERS MORE: a configuration; VIDEO and AUDIO are `dim ffn_dim heads`.
model() {
  local v a
  read -ra v <<<"$2"
  read -ra a <<<"$3"
  mkdir -p "$models/$1"
  cat >"$models/$1/config.json" <<JSON
{"video": {"dim": ${v[0]}, "ffn_dim": ${v[1]}, "heads": ${v[2]}, "in_channels": 16, "out_channels": 16, "patch": [1, 2, 2]},
 "audio": {"dim": ${a[0]}, "ffn_dim": ${a[1]}, "heads": ${a[2]}, "in_channels": 20, "out_channels": 20, "patch": [1]},
 "layers": $4$5}
JSON
}
model small "512 1792 4" "256 896 2" 4 ', "text_dim": 1024'
model 14b-2-layers "5120 13824 40" "1536 8960 12" 2 ''

# speed BACKEND DTYPE: a step of a small model, and of two of the 40 layers of the 14B model.
speed() {
  local clip=9x16x28@68 more=()
  # A software adapter shows that the command works, nothing else.
  if [ -n "$software" ]; then clip=3x4x4@22 more=(--steps 1 --repeat 1 --text-tokens 16); fi
  ccl bench step --model "$models/small" --random-weights --task joint --clip $clip --guidance two-pass --trace "${more[@]}" \
    --backend "$1" --dtype "$2"
  if [ -n "$software" ]; then return; fi
  local task
  for task in joint v2a a2v; do
    ccl bench step --model "$models/14b-2-layers" --random-weights --task $task --clip 21x44x80@158 --guidance two-pass --trace \
      --steps 1 --backend "$1" --dtype "$2"
  done
}

# on BACKEND HALF TOLERANCE: parity and speed in single and in half precision.
on() {
  section "$1: parity in f32, relative L2 within 1e-4"
  parity "$1" f32 1e-4
  section "$1: parity in $2, relative L2 within $3"
  parity "$1" "$2" "$3"
  section "$1: speed"
  speed "$1" f32
  speed "$1" "$2"
}

{
  if [ -n "$software" ]; then echo "DRY RUN on a software adapter: nothing here is a GPU's"; fi
  echo "date:    $(date -u +%FT%TZ)"
  echo "device:  $device"
  echo "command: benches/gpu/run.sh $(basename "$binary")${2:+ $2}"
  echo "binary:  $size bytes, $("$binary" --version)"
  command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  section "devices"
  echo "$listing"
  if [ -n "$cuda" ]; then on cuda bf16 2e-2; else section "cuda: not run, there is no NVIDIA GPU"; fi
  if [ -n "$wgpu" ]; then on wgpu f16 5e-3; else section "wgpu: not run, there is no GPU with a Vulkan driver"; fi
  section "$([ $failed = 0 ] && echo "every case holds" || echo "SOME CASES FAILED")"
  echo "$failed" >"$models/failed"
} | tee "$results.partial"
mv "$results.partial" "$results"
echo "results: ${results#"$root"/}" >&2
exit "$(cat "$models/failed")"
