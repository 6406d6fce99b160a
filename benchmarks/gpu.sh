#!/usr/bin/env bash
# Builds, runs the GPU tests and the benchmarks on a machine with an NVIDIA GPU, in under ten minutes.
# Writes benchmarks/results/<gpu>-<date>.json and .md, and the table of the fastest backends.
# STEPS: which of "test ops media train" (default all); OPS_LIMIT, BENCH_SECONDS: seconds for the operations, and a case.
# PYTHON: the interpreter (default python3), with torch for CUDA; RIVALS=1 installs the rivals first.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" - <<'CHECK'
import sys
import torch
if not torch.cuda.is_available():
    sys.exit(f"no GPU: torch {torch.__version__} finds none; this script needs an NVIDIA GPU and torch for CUDA")
print("GPU:", torch.cuda.get_device_name(), "torch", torch.__version__)
CHECK
if [[ ${RIVALS:-0} == 1 ]]; then
  "$python" -m pip install -q liger-kernel==0.8.5 'quack-kernels[cu13]==0.6.5' cut-cross-entropy==25.1.1 || true
  "$python" -m pip install -q --no-deps inf-cl==1.2.1 || true
fi
"$python" -c 'import ninja, pybind11, pytest_benchmark, setuptools' ||
  { echo "install what is missing: pip install ninja pybind11 pytest pytest-benchmark setuptools" >&2; exit 1; }
"$python" -m pip install -q --no-deps --no-build-isolation -e .
failed=0
wants() { [[ " ${STEPS:-test ops media train} " == *" $1 "* ]]; }
if wants test; then
  timeout 170 "$python" -m pytest tests/ops/test_gpu.py -q -m gpu -p no:cacheprovider || failed=1
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      timeout 40 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m tests.ops.small_gpu || failed=1
    done
  else
    echo "compute-sanitizer is not here: memcheck and racecheck were not run" >&2
  fi
fi
export BENCH_SECONDS=${BENCH_SECONDS:-0.3}
if wants ops; then
  timeout "${OPS_LIMIT:-180}" "$python" -m benchmarks --write-table mmcl_fast/ops/table.json || failed=1
fi
if wants media; then  # each file's modality through DALI on the GPU where it is installed
  timeout 60 "$python" -m benchmarks.media --select "256x256 or H.264 320x240 or FLAC" || failed=1
fi
if wants train; then
  timeout 120 "$python" -m benchmarks.train --encoder vit-b16 --seeds 0 --growth no \
    --rows "ours;plain PyTorch loop, two-forward query" || failed=1
fi
exit $failed
