#!/usr/bin/env bash
# Everything that is to be seen on a machine with a GPU, in one command, from what scripts/gpu-pack.sh has packed. Neither cargo nor internet is
# needed, nor is a compiler.
#
#   scripts/gpu.sh [SECTION …]     info tests bench rates numerics torch eval sanitize; all, in this order, without names
#
# GPU_PACK     the file of scripts/gpu-pack.sh [target/gpu/gpu.tar.xz]
# OUT          folder for reports, at most eight files [target/gpu/out]
# GPU_SECONDS  no section begins, and none goes on, beyond so many seconds [570]; the last line names what is left for another call
# STEADYDANCE  a program that was built here, instead of the pack: then there are no tests
# GPU_DRY      a libcuda.so.1 that emulates a GPU: every section in the smallest way, to see that it works
set -uo pipefail
cd "$(dirname "$0")/.."
pack=${GPU_PACK:-target/gpu/gpu.tar.xz}
out=${OUT:-target/gpu/out}
all=${GPU_SECONDS:-570}
dry=${GPU_DRY:-}
sections=("$@")
[ $# -gt 0 ] || sections=(info tests bench rates numerics torch eval sanitize)
mkdir -p "$out"
out=$(cd "$out" && pwd)
log=$out/log.txt
summary=$out/summary.md
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
: >>"$log"

say() {
  printf '%s\n' "$*" | tee -a "$log" >>"$summary"
  printf '%s\n' "$*"
}

# limited SECONDS COMMAND…: its output goes to the log; not longer than there is time at all.
limited() {
  local limit=$1 left=$((all - SECONDS))
  shift
  [ "$limit" -lt "$left" ] || limit=$left
  [ "$limit" -gt 0 ] || return 124
  timeout --kill-after 5 "$limit" "$@" >>"$log" 2>&1
}

# told NAME SECONDS COMMAND…: as limited, and how it ended in the summary.
told() {
  local name=$1 limit=$2 began=$SECONDS code=0
  shift 2
  printf '\n== %s: %s\n' "$name" "$*" >>"$log"
  limited "$limit" "$@" || code=$?
  case $code in
  0) say "- $name: passed, $((SECONDS - began)) s" ;;
  124 | 137) say "- $name: **out of time** after $((SECONDS - began)) s" ;;
  *) say "- $name: **failed** with $code after $((SECONDS - began)) s; the log has why" && grep -aE 'panicked at|^error|FAILED' "$log" | tail -3 | tee -a "$summary" ;;
  esac
  return $code
}

# Where the program comes from: the pack, or a program that was built here.
if [ -n "${STEADYDANCE:-}" ]; then
  gpu=$place
  program=$STEADYDANCE
else
  [ -f "$pack" ] || { echo "there is no $pack; scripts/gpu-pack.sh makes it" >&2; exit 2; }
  gpu=$place/gpu
  program=$gpu/steadydance
  # By Python, because not every machine has xz.
  python3 - "$pack" "$place" <<'PYTHON' || exit 2
import hashlib, json, sys, tarfile

with tarfile.open(sys.argv[1]) as packed:
    packed.extractall(sys.argv[2], filter="data")
folder = f"{sys.argv[2]}/gpu"
for cut in json.load(open(f"{folder}/cuts.json")):
    content = open(cut["file"], "rb").read()
    if hashlib.sha256(content).hexdigest() != cut["sha256"]:
        sys.exit(f"{cut['file']} is another than the pack was made with; pack again")
    with open(f"{folder}/{cut['program']}", "r+b") as file:
        file.seek(cut["at"])
        file.write(content)
PYTHON
  export LD_LIBRARY_PATH=$gpu/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
device=cuda
if [ -n "$dry" ]; then
  export STEADYDANCE_CUDA_DRIVER=$dry
else
  export STEADYDANCE_TEST_GPU=1
fi
images=$(ls "$gpu"/code/*.fatbin 2>/dev/null | paste -sd:)

section_info() {
  say "# $(date -u +%F) $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi')"
  say "Commit $(cat "$gpu/commit" 2>/dev/null || git rev-parse HEAD 2>/dev/null); $(nproc) cores."
  { nvidia-smi; lscpu; free -g; python3 -c 'import torch; print("torch", torch.__version__)'; } >>"$log" 2>&1
  told doctor 60 "$program" doctor
  [ -z "$dry" ] || return 0
}

section_tests() {
  [ -z "$dry" ] || { say "- tests: left out, this is a rehearsal"; return 0; }
  local failed=0
  for test in "$gpu"/tests/*; do
    case $test in
    # These take the kernels' code from files.
    *steadydance-emulated-gpu-* | */emulated-*) SD_GPU_IMAGES=$images told "$(basename "$test")" 120 "$test" --test-threads 1 || failed=1 ;;
    *) told "$(basename "$test")" 180 "$test" --test-threads 1 || failed=1 ;;
    esac
  done
  return $failed
}

section_bench() {
  local cases=(--json "$out/bench.json" --device $device)
  [ -z "$dry" ] || cases+=(--case 'dit-tiny-96x96x9-fp8-stream' --case 'gemm-300x*' --case 'attention-200x*' --runs 1 --warmups 0 --seconds 0)
  told bench 420 "$program" bench "${cases[@]}"
  local code=$?
  grep -aE '^(case|gemm|attention|conv|dit)-?|TFLOP/s' "$log" | tail -60 | sed 's/^/    /' | tee -a "$summary"
  return $code
}

# Single kernels by themselves, those too that the program does not measure.
section_rates() {
  [ -z "$dry" ] || { say "- rates: left out, this is a rehearsal"; return 0; }
  local failed=0
  for test in "$gpu"/tests/*emulated*; do
    SD_GPU_IMAGES=$images told "rates of $(basename "$test")" 90 "$test" --ignored --nocapture --test-threads 1 || failed=1
  done
  return $failed
}

section_numerics() {
  local small=(--size 192x192 --num-frames 17)
  [ -z "$dry" ] || small=(--size 32x32 --num-frames 1 --precision bf16)
  told numerics 150 "$program" bench numerics --device $device "${small[@]}" --json "$out/numerics.json" --markdown "$out/numerics.md"
  local code=$?
  if [ -z "$dry" ]; then
    told 'numerics of the 1.3B' 120 "$program" bench numerics --device $device --model 1.3b --blocks 4 --size 480x272 --num-frames 5 || code=$?
  fi
  return $code
}

section_torch() {
  python3 -c 'import torch' 2>/dev/null || { say "- torch: there is none"; return 0; }
  local cases=(--json "$out/torch.json" --limit 240)
  [ -z "$dry" ] || cases=(--json "$out/torch.json" --device cpu --runs 1 dit-tiny-96x96x9-bf16)
  told torch 300 python3 benches/peers/gpu_torch.py "${cases[@]}"
  local code=$?
  if [ -z "$dry" ]; then
    told 'torch, compiled' 240 python3 benches/peers/gpu_torch.py --compile --json "$out/torch-compiled.json" --limit 150 \
      dit-1.3b-480x832x81-bf16 dit-i2v-14b-480x832x81-bf16 dit-i2v-14b-480x832x81-fp8 || code=$?
  fi
  grep -aE '^dit-.*TFLOP/s  [A-Z]' "$log" | sed 's/^/    /' | tee -a "$summary"
  return $code
}

section_eval() {
  [ -z "$dry" ] || { say "- eval: left out, this is a rehearsal"; return 0; }
  told eval 240 "$program" eval models/demo/eval --pairs 8 --device $device --output "$place/eval"
  local code=$?
  cp "$place/eval/report.json" "$out/eval.json" 2>/dev/null
  return $code
}

section_sanitize() {
  command -v compute-sanitizer >/dev/null || { say "- compute-sanitizer: it is not installed"; return 0; }
  [ -z "$dry" ] || { say "- sanitize: left out, this is a rehearsal"; return 0; }
  local failed=0
  for tool in memcheck racecheck synccheck; do
    for test in "$gpu"/tests/*kernels-cuda; do
      told "$tool of $(basename "$test")" 90 compute-sanitizer --tool $tool --error-exitcode 9 "$test" --test-threads 1 || failed=1
    done
  done
  return $failed
}

failed=() left=()
for section in "${sections[@]}"; do
  declare -F "section_$section" >/dev/null || { echo "there is no section $section: info tests bench rates numerics torch eval sanitize" >&2; exit 2; }
  if [ $((all - SECONDS)) -lt 20 ] && [ -z "$dry" ]; then
    left+=("$section")
    continue
  fi
  say "## $section"
  began=$SECONDS
  "section_$section" || failed+=("$section")
  [ "$SECONDS" -lt "$all" ] || left+=("$section")
  say "$section took $((SECONDS - began)) s."
done
[ "$(stat -c %s "$log")" -le 12000000 ] || { tail -c 12000000 "$log" >"$place/log" && mv "$place/log" "$log"; }
[ ${#left[@]} -eq 0 ] || say "left: scripts/gpu.sh ${left[*]}"
[ ${#failed[@]} -eq 0 ] || { say "failed: ${failed[*]}"; exit 1; }
