#!/usr/bin/env bash
# Proves and measures the GPU kernels on whatever GPU this machine has, in less than 8 minutes.
#
#   benches/gpu/run.sh BINARY [--peer FILE] [--python PYTHON] [--software]
#
# BINARY is a stripped `ccl` (strip -o BINARY target/release/ccl), under 60 MB; nothing is built here. The parts, each with a time limit, those that
# everything is judged by first: parity with the reference cases, every kernel's results beside a plain one's, tiles chosen by measuring (`ccl bench tune`), kernels (`ccl bench kernels`) and a step,
# PyTorch on the same shapes where PYTHON [python3] has it with CUDA (compare.py; what is near its bound in turns with ccl), more steps, the cold start of
# a plan that carries its kernels, weights that do not fit a memory budget. FILE is a PyTorch program of the model for its denoising step; torch.compile
# works on it while parity is proven. Results go to standard output and to benches/results/<date>-<device>: .txt, -kernels.json,
# -tuned.json, -step.json, -errors.json, -torch.json and -ratios.svg. The exit code is 1 where something failed or where there is no GPU. To let `ccl`
# come with the tiles, put -tuned.json into runtime/tuned.
#
# --software takes software adapters and drivers for GPUs, to try the script itself, in tiny sizes: its results are named dry-run-<device>, say so, and
# are ignored by git. It finds softcuda in target/softcuda (see softcuda/README.md).
#
# CUDA kernels are compiled on the machine: libnvrtc and the CUDA headers must be there. Where there is no toolkit, CCL_NVRTC_DIR
# names a directory with lib/libnvrtc.so.13 and include/ (test.sh puts one into target/nvrtc/nvidia/cu13). cuBLASLt, which the tiles of products are
# measured against, is that of CCL_CUBLASLT_DIR, the one that PYTHON's PyTorch uses, or the toolkit's.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
limit=60000000 # bytes of the binary
whole=465      # seconds of all parts
times=1        # how many times as long parts may take
each=200       # milliseconds to measure each kernel for, in ccl as in PyTorch: a GPU lowers its clocks the longer it is busy

fail() {
  echo "error: $*" >&2
  exit 1
}

usage() {
  sed -n '4p' "$0" | sed 's/^# */usage: /' >&2
  exit 2
}

[ $# -ge 1 ] || usage
binary=$(realpath "$1")
[ -x "$binary" ] || fail "$1 is no program"
size=$(stat -c %s "$binary")
[ "$size" -le $limit ] || fail "$1 has $size bytes, more than $limit: strip it"
shift
kinds='[^()]*gpu[^()]*' software='' python=python3 peer='' arguments=$(basename "$binary")
while [ $# -gt 0 ]; do
  case "$1" in
    --software) kinds="$kinds|software adapter|software driver" software=yes ;;
    --python) python=${2:-} && shift ;;
    --peer) peer=$(realpath "${2:-}") && arguments="$arguments --peer $(basename "$peer")" && shift ;;
    *) fail "there is no option $1" ;;
  esac
  shift
done
[ -z "$peer" ] || [ -f "$peer" ] || fail "--peer: $peer is no file"
libraries=${LD_LIBRARY_PATH:-}
peers=()
if [ -n "$peer" ]; then peers=(--peer "$peer" --step); fi
# Software is slow, whatever the size. A GPU that has not answered for so long hangs, and what comes after has a new process.
if [ -n "$software" ]; then times=5 each=1; else export CCL_GPU_TIMEOUT=${CCL_GPU_TIMEOUT:-20}; fi
if [ -n "$software" ] && [ -d "$root/target/softcuda" ]; then libraries=$root/target/softcuda:$libraries; fi
if [ -n "${CCL_NVRTC_DIR:-}" ]; then
  export CUDA_PATH=${CUDA_PATH:-$CCL_NVRTC_DIR}
  compiler=$CCL_NVRTC_DIR/lib:
fi
export LD_LIBRARY_PATH=${compiler:-}$libraries

# cublaslt: the directory of NVIDIA's packages for PYTHON that has the library, if one has.
cublaslt() {
  "$python" - 2>/dev/null <<'PYTHON' || true
import glob, os, sys
for folder in sys.path:
    found = sorted(glob.glob(os.path.join(folder, "nvidia", "*", "lib", "libcublasLt.so.*")), key=os.path.basename)
    if found:
        print(os.path.dirname(os.path.dirname(found[-1])))
        break
PYTHON
}
if [ -z "$software${CCL_CUBLASLT_DIR:-}" ]; then
  CCL_CUBLASLT_DIR=$(cublaslt)
  if [ -n "$CCL_CUBLASLT_DIR" ]; then export CCL_CUBLASLT_DIR; else unset CCL_CUBLASLT_DIR; fi
fi

# `backend: name (kind)` of each backend that has a GPU.
listing=$("$binary" devices)
cuda=$(sed -nE "s/^cuda: (.*) \(($kinds)\)\$/\1/p" <<<"$listing" | head -1)
wgpu=$(sed -nE "s/^wgpu: (.*) \(($kinds)\)\$/\1/p" <<<"$listing" | head -1)
[ -n "$cuda$wgpu" ] || fail "there is no GPU here; \`ccl devices\` lists:
$listing"
device=${cuda:-$wgpu}
backend=wgpu half=f16
if [ -n "$cuda" ]; then backend=cuda half=bf16; fi

slug=$(tr '[:upper:]' '[:lower:]' <<<"$device" | sed -E 's/[^a-z0-9]+/-/g; s/^-|-$//g')
mkdir -p "$root/benches/results"
results=$root/benches/results/$(date -u +%F)-$slug
if [ -n "$software" ]; then results=$root/benches/results/dry-run-$slug; fi
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
# Kernels and tiles of this run alone.
export CCL_CACHE_DIR=$models/cache TORCHINDUCTOR_CACHE_DIR=$models/inductor
failed=0
began=$SECONDS
ends=0

# section SECONDS TITLE [RESERVE]: a part that may take so long, and leaves RESERVE seconds to those after it. False where there is no time for it.
missed=''
section() {
  local left=$((whole * times - SECONDS + began - ${3:-0} * times)) most=$(($1 * times))
  printf '\n== %s\n' "$2"
  ends=$((SECONDS + (most < left ? most : left)))
  if [ $left -gt 3 ]; then return 0; fi
  echo "LEFT OUT: the time is up"
  missed+="${missed:+; }$2"
  return 1
}

# left: seconds that the part has, at least one.
left() {
  local n=$((ends - SECONDS))
  echo $((n > 1 ? n : 1))
}

# ccl ARGUMENT...: runs the program, with its command line above what it says; $say is what that goes through. Its exit code is $code.
say=cat
code=0
ccl() {
  # Paths of this machine are nobody's business.
  printf '\n$ ccl %s\n' "$(hide <<<"$*")"
  code=0
  timeout "$(left)" "$binary" "$@" >"$models/out" 2>"$models/log" || code=$?
  $say <"$models/out" | hide
  grep '^warning' "$models/log" | sort -u | hide || true
  if [ $code = 0 ]; then return; fi
  failed=1
  if [ $code = 124 ]; then echo "the part's time is up" && return; fi
  grep -v '^warning' "$models/log" | tail -5 | hide || true
  echo "exit code $code"
}

hide() {
  sed -e "s|$root/||g; s|$models/||g; s|$HOME|~|g${peer:+; s|$(dirname "$peer")/||g}"
}

# json FILE FIELD: a number of a JSON document.
json() {
  sed -nE "s/^ *\"$2\": ([0-9.e+-]+),?\$/\1/p" "$1" | head -1
}

# summary: what `ccl verify` says, with one line for all results that agree.
summary() {
  awk '$1 == "ok" && NF == 3 { n++; if (n == 1 || $3 + 0 > worst + 0) { name = $2; worst = $3 }; next }
    { print }
    END { if (n) printf "%d result%s agree%s, worst %s %s\n", n, n == 1 ? "" : "s", n == 1 ? "s" : "", name, worst }'
}

# parity BACKEND DTYPE TOLERANCE: every case that has results of a forward pass; of a dry run the smallest. The largest errors of velocities in bf16 are
# kept, for PyTorch's have to be no less than half of them.
parity() {
  local name case cases=(head128 image shifted small) say=summary errors=''
  if [ -n "$software" ]; then cases=(small); fi
  for name in "${cases[@]}"; do
    case=$root/tests/cases/$name
    local verify=(verify --model "$case" --inputs "$case/inputs.safetensors" --expected "$case/expected.safetensors"
      --backend "$1" --dtype "$2" --tolerance "$3")
    ccl "${verify[@]}"
    if [ $code != 0 ] && [ "$1" = cuda ]; then
      echo "once more, with kernels that begin where the one before them has ended (CCL_OVERLAP=0):"
      CCL_OVERLAP=0 ccl "${verify[@]}"
    fi
    errors+=$(awk -v name="$name" '$2 ~ /^velocity\./ && NF == 3 && $3 + 0 > worst + 0 { worst = $3 }
      END { if (worst) printf ", \"%s\": %s", name, worst }' "$models/out")
  done
  if [ "$1 $2" = "cuda bf16" ] && [ -n "$errors" ]; then echo "{${errors#, }}" >"$results-errors.json"; fi
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
model tiny "64 96 2" "32 48 2" 1 ', "text_dim": 32, "freq_dim": 16, "audio_context_tokens": 2, "video_context_tokens": 4'

# The model of the single step that is looked at closely, and how it is run.
large=14b-2-layers shape=(--task joint --clip 21x44x80@158 --guidance two-pass) few=(--steps 2 --repeat 3)
if [ -n "$software" ]; then large=tiny shape=(--task joint --clip 2x4x4@8 --guidance two-pass --text-tokens 8) few=(--steps 1 --repeat 1); fi

# speed BACKEND DTYPE: a step of a small model, and, on the backend that is looked at closely, of two of the 40 layers of the 14B model.
speed() {
  local task
  if [ -n "$software" ]; then
    # Software shows that the command works, nothing else.
    ccl bench step --model "$models/tiny" --random-weights "${shape[@]}" --trace "${few[@]}" --backend "$1" --dtype "$2"
    return
  fi
  ccl bench step --model "$models/small" --random-weights --task joint --clip 9x16x28@68 --guidance two-pass --trace --backend "$1" --dtype "$2"
  if [ "$2" = f32 ] || [ "$1" != $backend ]; then return; fi
  for task in joint v2a a2v; do
    ccl bench step --model "$models/14b-2-layers" --random-weights --task $task --clip 21x44x80@158 --guidance two-pass --trace \
      --steps 1 --backend "$1" --dtype "$2"
  done
}

# tune: tiles for this device, kept beside the results and read by all that follows.
tune() {
  local what=()
  # One small product is enough for what interprets.
  if [ -n "$software" ]; then what=(--model "$models/tiny" "${shape[@]}" --dtype $half --time 1 --filter 1x8x64x64); fi
  # The last problem that is begun has a quarter of the time to end in.
  ccl bench tune --backend $backend --budget $(($(left) * 3 / 4)) "${what[@]}"
  if compgen -G "$CCL_CACHE_DIR/tuned/*.json" >/dev/null; then cp "$CCL_CACHE_DIR"/tuned/*.json "$results-tuned.json"; fi
}

# What kernels of a dry run are told.
tiny=()
if [ -n "$software" ]; then tiny=(--set tiny --rotate 64kB); fi

# kernels BACKEND MILLISECONDS OPTION...: every kernel.
kernels() {
  local more=(--time "$2" "${tiny[@]}") backend=$1
  shift 2
  if [ -n "$software" ] && [ "$backend" = cuda ]; then more+=(--filter audio.projection --dtype $half); fi
  ccl bench kernels --backend "$backend" --budget $(($(left) * 4 / 5)) "${more[@]}" "$@"
}

# check: every kernel gives what a plain one gives. Gradients first, for nothing else proves them at such sizes.
check() {
  if [ -z "$software" ]; then kernels cuda 1 --check --filter gradient; fi
  kernels cuda 1 --check
}

# overlap: what it brings that kernels begin while the one before them ends, both ways in one sitting, and that it changes no bit.
overlap() {
  local off case=$root/tests/cases/head128
  for off in '' 0; do
    if [ -n "$off" ]; then export CCL_OVERLAP=$off && printf '\nwith CCL_OVERLAP=0'; fi
    # A dry run has one kernel, which it names itself.
    if [ -n "$software" ]; then
      kernels cuda "$each"
    else
      kernels cuda 20 --filter audio.
      ccl bench step --model "$models/small" --random-weights --task joint --clip 9x16x28@68 --guidance two-pass --backend cuda --dtype bf16
      ccl forward --model "$case" --inputs "$case/inputs.safetensors" --task joint --backend cuda --dtype bf16 -o "$models/overlap$off.safetensors"
    fi
  done
  unset CCL_OVERLAP
  if [ -f "$models/overlap.safetensors" ] && [ -f "$models/overlap0.safetensors" ]; then
    if cmp "$models"/overlap{,0}.safetensors; then echo "the overlap changes no bit"; else echo "THE OVERLAP CHANGES RESULTS" && failed=1; fi
  fi
}

# architecture: what plans for the NVIDIA GPU are made for.
architecture() {
  local capability
  capability=$(sed -nE 's/^ *compute capability times 10: ([0-9]+)$/\1/p' <<<"$listing" | head -1)
  echo "cuda:sm_$capability$([ "$capability" -lt 90 ] || echo a)"
}

# cold_start: a plan with compiled kernels in a new process that has neither a cache nor a compiler.
cold_start() {
  local tuned=()
  if [ -f "$results-tuned.json" ]; then tuned=(--tuned "$results-tuned.json"); fi
  ccl compile --model "$models/$large" "${shape[@]}" --dtype $half --target "$(architecture)" "${tuned[@]}" -o "$models/plan.cclp"
  if [ ! -f "$models/plan.cclp" ]; then return; fi
  # A directory that must have the compiler, and has not.
  CCL_NVRTC_DIR=/nowhere CCL_CACHE_DIR=$models/empty ccl bench step --plan "$models/plan.cclp" --model "$models/$large" --random-weights \
    "${few[@]}" --backend cuda
  if compgen -G "$models/empty/kernels/*" >/dev/null; then
    echo "NVRTC WAS USED: $(find "$models/empty/kernels" -type f | wc -l) kernels were compiled"
    failed=1
  elif grep -q '^step ' "$models/out"; then
    echo "NVRTC was not used: every kernel came with the plan"
  fi
}

# budget: weights that come to the device while it computes.
budget() {
  local planned weights
  timeout "$(left)" "$binary" explain --model "$models/$large" "${shape[@]}" --dtype $half --target "$(architecture)" --format json \
    >"$models/explain.json" 2>/dev/null || true
  planned=$(json "$models/explain.json" peak_bytes) weights=$(json "$models/explain.json" weight_bytes)
  # Half of the weights stay on the host.
  ccl bench step --model "$models/$large" --random-weights "${shape[@]}" --dtype $half "${few[@]}" --backend cuda --trace \
    --memory-budget $((${planned:-4000000000} - ${weights:-2000000000} / 2))
  # How much of the copies is hidden is what this is for.
  if [ $code = 0 ] && ! grep -q '^weights .* hidden behind calls' "$models/out"; then echo "NO WEIGHTS CAME IN THE STEP: the budget is no bound" && failed=1; fi
}

# has_torch: whether there is a PyTorch to compare with; says why not.
has_torch() {
  local probe='import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)'
  if [ -n "$software" ]; then probe='import torch'; fi
  if ! command -v "$python" >/dev/null; then echo "not compared: there is no $python here" && return 1; fi
  if ! "$python" -c "$probe" 2>/dev/null; then echo "not compared: $python has no PyTorch with CUDA" && return 1; fi
}

# warm: starts torch.compile, which takes a minute or two, beside what no clock watches.
warming=''
warm() {
  if [ -n "$software" ] || ! has_torch >/dev/null; then return; fi
  timeout -k 5 115 "$python" -B "$here/compare.py" "${peers[@]}" --warm --limit 110 >"$models/warm" 2>&1 &
  warming=$!
}

# warmed: waits for it; what it could not compile is told, and fails when it is measured.
warmed() {
  if [ -z "$warming" ]; then return; fi
  wait "$warming" || true
  # What Inductor found fastest beside other work is to be found again.
  find "$TORCHINDUCTOR_CACHE_DIR" -name '*.best_config' -delete 2>/dev/null || true
  printf '\n$ compare.py --warm\n'
  grep -E '^ |^error' "$models/warm" | hide || true
}

# torch: the same shapes in PyTorch.
torch() {
  local more=("${peers[@]}" --time $each --budget $(($(left) / 2)) --limit $(($(left) - 5)))
  has_torch || return 0
  if [ -n "$software" ]; then more+=(--dry-run); fi
  if [ -f "$results-kernels.json" ]; then
    more+=(--ccl "$results-kernels.json" --turns "$binary" --turns-options "--backend $backend --dtype $half ${tiny[*]}")
  fi
  if [ -f "$results-step.json" ]; then more+=(--ccl-step "$results-step.json"); fi
  if [ -f "$results-errors.json" ]; then more+=(--ccl-errors "$results-errors.json"); fi
  if [ -n "$peer" ]; then more+=(--cases "$root/tests/cases"); fi
  printf '\n$ compare.py %s\n' "$(hide <<<"${more[*]}")"
  timeout -k 5 "$(left)" "$python" -B "$here/compare.py" "${more[@]}" -o "$results-torch.json" --svg "$results-ratios.svg" 2>"$models/log" | hide || {
    tail -15 "$models/log" | hide
    echo "PyTorch was not compared to the end"
    failed=1
  }
}

rm -f "$results"-{kernels,tuned,step,errors,torch}.json "$results-ratios.svg"
{
  if [ -n "$software" ]; then echo "DRY RUN on software that imitates GPUs: nothing here is a GPU's"; fi
  echo "date:    $(date -u +%FT%TZ)"
  echo "device:  $device"
  echo "command: benches/gpu/run.sh $arguments${software:+ --software}"
  echo "binary:  $size bytes, $("$binary" --version)"
  command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  printf '\n== devices\n%s\n' "$listing"
  warm
  if [ -n "$cuda" ]; then
    if section 60 "cuda: parity in f32, relative L2 within 1e-4"; then parity cuda f32 1e-4; fi
    if [ -n "$software" ]; then
      printf '\n== cuda: parity in bf16\nleft out of a dry run: it takes too long\n'
    elif section 60 "cuda: parity in bf16, relative L2 within 2e-2"; then
      parity cuda bf16 2e-2
    fi
  else
    printf '\n== cuda: NOT RUN, there is no NVIDIA GPU\n'
  fi
  if [ -n "$wgpu" ]; then
    if section 40 "wgpu: parity in f32, relative L2 within 1e-4"; then parity wgpu f32 1e-4; fi
    if section 40 "wgpu: parity in f16, relative L2 within 5e-3"; then parity wgpu f16 5e-3; fi
  else
    printf '\n== wgpu: NOT RUN, there is no GPU with a Vulkan driver\n'
  fi
  if [ -n "$cuda" ] && section 60 "cuda: results of every kernel at the sizes that are measured, beside those of plain kernels"; then check; fi
  warmed
  if section 90 "$backend: tiles chosen by measuring" 180; then tune; fi
  if section 60 "$backend: kernels" 150; then kernels $backend $each -o "$results-kernels.json"; fi
  if section 30 "$backend: the step that PyTorch is compared by" 150; then
    ccl bench step --model "$models/$large" --random-weights "${shape[@]}" "${few[@]}" --backend $backend --dtype $half --json
    if grep -q step_s "$models/out"; then cp "$models/out" "$results-step.json"; fi
  fi
  if section 200 "PyTorch on the same shapes" 80; then torch; fi
  if section 40 "steps" 40; then
    if [ -n "$cuda" ]; then speed cuda f32 && speed cuda bf16; fi
    if [ -n "$wgpu" ]; then speed wgpu f32 && speed wgpu f16; fi
  fi
  if [ -n "$cuda" ]; then
    if section 20 "cuda: weights beyond a memory budget"; then budget; fi
    if section 20 "cuda: a plan that carries its kernels, in a new process"; then cold_start; fi
    if section 25 "cuda: kernels of the audio stream and a small model's step, with and without overlap"; then overlap; fi
  fi
  # The large ones of the video stream would take all of the time.
  if [ -n "$cuda" ] && [ -n "$wgpu" ] && section 20 "wgpu: kernels of the audio stream"; then
    kernels wgpu $((each < 50 ? each : 50)) --filter audio.
  fi
  verdict="everything holds"
  if [ -n "$missed" ]; then verdict="what there was time for holds; LEFT OUT: $missed"; fi
  if [ $failed != 0 ]; then verdict="SOMETHING FAILED${missed:+; LEFT OUT: $missed}"; fi
  printf '\n== %s\n' "$verdict"
  echo "took $((SECONDS - began)) s"
  echo "$failed" >"$models/failed"
} | tee "$results.partial"
mv "$results.partial" "$results.txt"
echo "results: ${results#"$root"/}.txt and what is beside it" >&2
exit "$(cat "$models/failed")"
