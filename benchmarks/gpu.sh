#!/usr/bin/env bash
# Build, check and time the kernels on a machine with an NVIDIA GPU, in under nine minutes, without a network.
#
# Usage: bash benchmarks/gpu.sh FOLDER [STEP ...]
#
# FOLDER: takes the results: summary.txt (read this first), log.txt, ops.json, ops.md, table.json and counters.txt.
# Every step writes its results as it runs. A run that is cut off keeps the results up to then.
#
# STEP: build, smoke, test, ops, sanitize or profile. Without a STEP, these six run in this order.
# The steps media and train need the whole package. The other steps need torch, triton, pybind11, ninja, setuptools and
# pytest, and nothing else.
#
# Environment variables:
# PYTHON: the interpreter (default: python3).
# WHEELS: a folder of wheels to install first (default: wheels/ if it exists).
# GPU_SECONDS: limit of the run (default: 520).
# BENCH_SECONDS: seconds to measure each case (default: 0.2).
# GPU_DEVICE: cpu is a rehearsal without a GPU (default: cuda).
set -uo pipefail
[[ $# -ge 1 ]] || { echo "error: no folder for the results: bash benchmarks/gpu.sh FOLDER [STEP ...]" >&2; exit 2; }
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.." || exit 2
steps=" ${*:-build smoke test ops sanitize profile} "
python=${PYTHON:-python3} total=${GPU_SECONDS:-520} device=${GPU_DEVICE:-cuda}
export PYTHONUNBUFFERED=1 BENCH_SECONDS=${BENCH_SECONDS:-0.2}
failed=0
running=()
: >"$out/summary.txt"
: >"$out/log.txt"

note() { echo "$*" | cut -c1-400 | tee -a "$out/summary.txt"; }
seconds_left() { echo $((total - SECONDS)); }
wants() { [[ $steps == *" $1 "* ]]; }
trap 'kill "${running[@]}" 2>/dev/null; note "CUT OFF after ${SECONDS} s: the steps above are complete, log.txt has the rest"; exit 143' TERM INT

# step NAME LIMIT COMMAND...: run a command for at most LIMIT seconds.
# Its output goes to log.txt, and one line about its end to summary.txt.
step() {
  local name=$1 limit=$2 start=$SECONDS code lines
  shift 2
  ((limit > $(seconds_left))) && limit=$(seconds_left)
  if ((limit < 5)); then note "$name: NOT RUN, the time was up"; failed=1; return 1; fi
  lines=$(wc -l <"$out/log.txt")
  echo "=== $name: $*" >>"$out/log.txt"
  timeout -k 5 "$limit" "$@" >>"$out/log.txt" 2>&1 &
  running=($!)
  wait "${running[0]}"
  code=$?
  running=()
  tail -n "+$((lines + 2))" "$out/log.txt" >"$out/.step"
  case $code in
    0) note "$name: ok, $((SECONDS - start)) s" ;;
    124 | 137) note "$name: STOPPED after $((SECONDS - start)) s, its limit"; failed=1 ;;
    *) note "$name: FAILED with exit code $code after $((SECONDS - start)) s"; failed=1 ;;
  esac
  return "$code"
}
# summarise PATTERN COUNT: copy the last COUNT matching lines of the step's output to summary.txt.
summarise() { grep -aE "$1" "$out/.step" | tail -n "$2" | cut -c1-300 | sed 's/^/    /' | tee -a "$out/summary.txt"; }

wheels=${WHEELS:-wheels}
if compgen -G "$wheels/*.whl" >/dev/null; then
  if "$python" -m pip install -q --no-index --no-deps --upgrade --target "$out/.site" "$wheels"/*.whl >>"$out/log.txt" 2>&1
  then export PYTHONPATH="$out/.site${PYTHONPATH:+:$PYTHONPATH}"
  else note "wheels: could not be installed from $wheels (log.txt)"; failed=1; fi
fi
"$python" - "$device" >"$out/.step" 2>"$out/.error" <<'CHECK' || { note "error: $(tail -n 1 "$out/.error")"; exit 1; }
import sys
try:
    import ninja, pybind11, pytest, setuptools, torch, triton
except ImportError as error:
    sys.exit(f"{error}: install torch for CUDA, triton, ninja, pybind11, setuptools and pytest")
about = f"torch {torch.__version__}, triton {triton.__version__}, Python {sys.version.split()[0]}"
if sys.argv[1] == "cpu":
    print("rehearsal on the CPU; these results say nothing about a GPU:", about)
    sys.exit()
if not torch.cuda.is_available():
    sys.exit(f"no GPU: torch {torch.__version__} finds none; this script needs an NVIDIA GPU and torch for CUDA")
major, minor = torch.cuda.get_device_capability()
print(f"{torch.cuda.get_device_name()}, sm_{major}{minor}, {about}")
print("90a" if (major, minor) == (9, 0) else f"{major}{minor}")
CHECK
note "$(head -n 1 "$out/.step")"
arch=$(sed -n 2p "$out/.step")

if wants build; then  # in place, for this GPU's architecture alone
  if [[ $device == cuda ]]; then export MMCL_FAST_CUDA=1 MMCL_FAST_CUDA_ARCHS=${MMCL_FAST_CUDA_ARCHS:-$arch}; fi
  step build 150 "$python" setup.py build_ext --inplace
  "$python" -c 'import mmcl_fast.kernels' 2>/dev/null || ln -sfn ../kernels mmcl_fast/kernels
fi

kernels="cuda triton"
[[ $device == cpu ]] && kernels=cpp
if wants smoke; then  # one process a backend: a kernel that hangs or crashes ends its own process only
  for name in $kernels; do
    step "smoke $name" 60 "$python" -m tests.ops.small_gpu "$name" --device "$device"
    summarise "error|wrong|Error" 12
  done
fi

if wants test; then
  [[ $device == cpu ]] && tests=(tests/ops/test_choice.py) || tests=(tests/ops/test_gpu.py tests/ops/test_half.py -m gpu)
  "$python" -c 'import xdist' 2>/dev/null && tests+=(-n 4)  # most of the time goes into compiling Triton's kernels
  step test 110 "$python" -m pytest "${tests[@]}" -v -rfE --tb=short -p no:cacheprovider -o addopts= \
    -o faulthandler_timeout=60
  summarise "^(FAILED|ERROR)|^=+ .*(passed|failed|error)|Timeout" 20
fi

profiles=0 checks=0
if wants profile && [[ $device == cuda ]] && command -v ncu >/dev/null; then profiles=45; fi
if wants sanitize && [[ $device == cuda ]] && command -v compute-sanitizer >/dev/null; then checks=120; fi
if wants ops; then
  limit=$(($(seconds_left) - profiles - checks - 10))
  select=()
  [[ $device == cpu ]] && select=(--select "256x100 and float32")
  cp mmcl_fast/ops/table.json "$out/table.json"
  step ops "$limit" "$python" -m benchmarks --folder "$out" --out ops --quiet --limit $((limit - 25)) \
    --write-table "$out/table.json" "${select[@]}"
  summarise "floor .* ms;|^stopped|^error" 60
fi

if wants sanitize && [[ $device == cuda ]]; then
  if command -v compute-sanitizer >/dev/null; then  # both tools at the same time
    ids=()
    limit=$(($(seconds_left) - profiles < 120 ? $(seconds_left) - profiles : 120))
    ((limit < 5)) && limit=5
    for tool in memcheck racecheck; do
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 5 "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$python" -m tests.ops.small_gpu cuda >"$out/.$tool" 2>&1 &
      ids+=("$tool:$!")
      running+=($!)
    done
    for pair in "${ids[@]}"; do
      wait "${pair#*:}"
      code=$?
      tool=${pair%%:*}
      { echo "=== sanitize $tool"; cat "$out/.$tool"; } >>"$out/log.txt"
      case $code in 0) ;; *) failed=1 ;; esac
      note "sanitize $tool: exit code $code (0 clean, 9 found something, 124 stopped); $(grep -ac 'error ' "$out/.$tool") cases computed"
      grep -aE "ERROR SUMMARY|RACECHECK SUMMARY|Invalid|hazard" "$out/.$tool" | tail -n 4 | cut -c1-300 | tee -a "$out/summary.txt"
      rm -f "$out/.$tool"
    done
  else
    note "sanitize: NOT RUN, compute-sanitizer is not on the PATH"
  fi
fi

if wants profile && [[ $device == cuda ]]; then
  if ((profiles)); then
    common=(ncu --clock-control none --kernel-name 'regex:one_pass|exp_kernel' --launch-count 3)
    run=("$python" -m tests.ops.small_gpu profile)
    metrics=gpu__time_duration.sum,sm__inst_executed_pipe_tensor.sum
    metrics+=,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active,lts__t_bytes.sum,dram__bytes.sum
    metrics+=",regex:smsp__average_warps_issue_stalled_.*_per_issue_active.ratio"
    step "profile, counters" 45 "${common[@]}" --metrics "$metrics" "${run[@]}"
    cp "$out/.step" "$out/counters.txt"
    if ! grep -aq lts__t_bytes "$out/.step"; then  # other GPU generations name these counters differently: take sections
      step "profile, sections" 45 "${common[@]}" --section SpeedOfLight --section ComputeWorkloadAnalysis \
        --section MemoryWorkloadAnalysis --section WarpStateStats --print-details all "${run[@]}"
      cat "$out/.step" >>"$out/counters.txt"
    fi
    summarise "one_pass|exp_kernel|gpu__time|pipe_tensor|lts__t_bytes|dram__bytes|long_scoreboard|barrier|Tensor|L2 Hit" 40
  else
    note "profile: NOT RUN, ncu is not on the PATH"
  fi
fi

if wants media; then  # through DALI on the GPU if it is installed
  step media 60 "$python" -m benchmarks.media --select "256x256 or H.264 320x240 or FLAC"
fi
if wants train; then
  step train 120 "$python" -m benchmarks.train --encoder vit-b16 --seeds 0 --growth no \
    --rows "ours;plain PyTorch loop, two-forward query"
fi
rm -rf "$out/.step" "$out/.error" "$out/.site"
note "done in ${SECONDS} s: $([[ $failed == 0 ]] && echo "all steps ended well" || echo "NOT all steps ended well")"
exit $failed
