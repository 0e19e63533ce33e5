#!/usr/bin/env bash
# The whole GPU table on a bare machine, within a time budget: bash benchmarks/gpu.sh [MINUTES] [more for benchmarks.gpu]
# The record, written after each row, goes to $OUT/gpu.json, or to results/benchmarks/gpu.json.
# Beforehand, in a call of its own: bash benchmarks/gpu.sh 6 --check
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=8.5
if [[ "${1:-}" =~ ^[0-9.]+$ ]]; then
  minutes=$1
  shift
fi
exec python3 -m benchmarks.gpu --minutes "$minutes" "$@"
