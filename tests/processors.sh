#!/usr/bin/env bash
# Run the tests with the arithmetic of other processors. Each line of SETTINGS is one run of pytest.
# Usage: tests/processors.sh [pytest arguments]
# The output of the runs goes to build/processors/. The last lines are the summary.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-.venv/bin/python}
out=build/processors
mkdir -p "$out"

# MMCL_FAST_ISA chooses our kernels, ATEN_CPU_CAPABILITY torch's, and MKL_* the matrix products of MKL.
SETTINGS='
OMP_NUM_THREADS=1
OMP_NUM_THREADS=2
MMCL_FAST_ISA=generic OMP_NUM_THREADS=1
MMCL_FAST_ISA=avx2 OMP_NUM_THREADS=1
MMCL_FAST_ISA=avx512 OMP_NUM_THREADS=1
ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1
ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1
MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1
MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1
'
failed=0
summary=()
while read -r setting; do
  [ -n "$setting" ] || continue
  log="$out/${setting// /,}.txt"
  # shellcheck disable=SC2086  # a setting is several variables
  env $setting "$python" -m pytest -q "$@" >"$log" 2>&1
  code=$?
  [ "$code" -eq 0 ] || failed=1
  summary+=("$(printf '%-48s %s' "$setting" "$(tail -n 1 "$log")")")
  grep -a '^FAILED\|^ERROR' "$log"
done <<<"$SETTINGS"
printf '%s\n' "${summary[@]}"
exit "$failed"
