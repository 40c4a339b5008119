#!/usr/bin/env bash
# Times ccl's cpu backend and another implementation of the model in turn, and prints the ratios of their medians.
#
#   benches/compare.sh BINARY PEER [--python PYTHON] [--install DIR] [--rounds N] [--threads N] [--eager]
#
# BINARY is `ccl`. PEER is a Python program with the preset `bench` (the model of benches/model, clip 9x16x28@68) that takes --preset, --task,
# --guidance, --steps, --repeat, --device, --compile and --train, and prints one JSON line with `step_s` and `peak_bytes`. It is run by PYTHON
# [python3]; --install DIR makes a virtual environment with PyTorch for CPUs there and takes its Python. --rounds pairs of measurements [3] on
# --threads threads [all cores]; --eager leaves --compile out. What is compiled is compiled before anything is measured.
#
# A line for each task: seconds of both sides, ours over theirs. `clip v2a` is a clip of 50 steps, ours with its prologue.
# WRAP may hold a command that runs each measurement, such as one that keeps the machine quiet.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() {
  sed -n '2,/^set/s/^# \?//p' "$0" >&2
  exit 2
}

[ $# -ge 2 ] || usage
binary=$(realpath "$1") peer=$(realpath "$2")
shift 2
python=python3 rounds=3 threads=$(nproc) compile=--compile
while [ $# -gt 0 ]; do
  case "$1" in
    --python) python=$2 ;;
    --install)
      python=$2/bin/python
      [ -x "$python" ] || python3 -m venv "$2"
      "$python" -c 'import torch' 2>/dev/null ||
        "$python" -m pip install --quiet torch numpy safetensors --extra-index-url https://download.pytorch.org/whl/cpu
      ;;
    --rounds) rounds=$2 ;;
    --threads) threads=$2 ;;
    --eager) compile= && shift && continue ;;
    *) usage ;;
  esac
  shift 2 || usage
done
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads

# ours ARGUMENT...: one JSON document.
ours() {
  ${WRAP:-} "$binary" bench "$@" --model "$root/benches/model" --random-weights --clip 9x16x28@68 --backend cpu --threads "$threads" --json 2>/dev/null
}

# theirs ARGUMENT...: one JSON line.
theirs() {
  local line
  line=$(${WRAP:-} "$python" "$peer" --preset bench --device cpu "$@" 2>/dev/null | tail -1)
  case "$line" in
    {*}) echo "$line" ;;
    *) echo "error: no result of: $python $peer --preset bench --device cpu $*" >&2 && return 1 ;;
  esac
}

# pairs NAME STEPS OURS... -- THEIRS...: measures in turn and says what comes out.
pairs() {
  local name=$1 steps=$2 list=$(mktemp) a=()
  shift 2
  while [ "$1" != -- ]; do a+=("$1") && shift; done
  shift
  WRAP='' theirs "$@" --steps 1 --repeat 1 >/dev/null
  for _ in $(seq "$rounds"); do
    local left right
    left=$(ours "${a[@]}") right=$(theirs "$@" --steps 2)
    printf '[%s,%s]\n' "${left//$'\n'/}" "$right" >>"$list"
  done
  "$python" - "$name" "$steps" "$list" <<'PYTHON'
import json, statistics, sys
name, steps, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
pairs = [json.loads(line) for line in open(path) if line.strip()]
seconds = lambda a: a["prologue_s"] + steps * a["step_s"] if steps > 1 else a["step_s"]
median = lambda values: statistics.median(list(values))
ours, theirs = median(seconds(a) for a, _ in pairs), median(steps * b["step_s"] for _, b in pairs)
memory = median(a["peak_bytes"] for a, _ in pairs), median(b["peak_bytes"] for _, b in pairs)
start = median(a["plan_s"] + a["load_s"] for a, _ in pairs)
print(f"{name:<18} {ours:>9.4f} s {theirs:>9.4f} s {ours / theirs:>7.3f}   {memory[0] / 1e6:>6.0f} MB {memory[1] / 1e6:>6.0f} MB"
      f" {memory[0] / memory[1]:>6.2f}   {start:>6.2f} s", flush=True)
PYTHON
  rm "$list"
}

echo "$("$binary" --version), $("$python" -c 'import torch; print("PyTorch", torch.__version__)')${compile:+, torch.compile}; $threads threads; medians of $rounds pairs"
"$binary" devices | sed -n 's/^cpu: /cpu: /p'
printf '%-18s %11s %11s %7s   %9s %9s %6s   %8s\n' '' ours theirs ratio ours theirs ratio 'our start'
for case in 'joint two-pass' 'joint three-pass' 'a2v two-pass' 't2v two-pass'; do
  read -r task guidance <<<"$case"
  pairs "$case" 1 step --task "$task" --guidance "$guidance" -- --task "$task" --guidance "$guidance" $compile
done
pairs 'clip v2a two-pass' 50 step --task v2a --guidance two-pass -- --task v2a --guidance two-pass $compile
# Training is compared with eager PyTorch.
pairs 'train joint' 1 train --task joint -- --task joint --train
