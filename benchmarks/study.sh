#!/usr/bin/env bash
# Trainings of a study on a bare GPU machine: bash benchmarks/study.sh "LIST ..." [MINUTES] [AT_ONCE]
# A list is the name of an example, such as study_sizes, or a file of benchmarks/studies.
# Beforehand, where the data are: python -m benchmarks.study pack artifacts/persons data/coco artifacts/shards artifacts/study/pack
# (`--scored` for examples). The parts may travel one by one. Results go to $OUT (or artifacts/study/out), weights in half precision packed by tens
# of MiB. `python -m benchmarks.study_rows` scores what came back.
# Runs that $DONE (a runs.json) or results/lowres holds were trained by an earlier call and are not trained again.
set -euo pipefail
lists=$1 minutes=${2:-8} at_once=${3:-4}
out=${OUT:-artifacts/study/out}
shards=artifacts/study/shards work=artifacts/study/work
known=(${DONE:+--done "$DONE"})

# Small networks leave most of a GPU idle; with NVIDIA's multi-process service their kernels run beside each other.
if command -v nvidia-cuda-mps-control >/dev/null && [ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ]; then
  export CUDA_MPS_PIPE_DIRECTORY=/tmp/farpose-mps CUDA_MPS_LOG_DIRECTORY=/tmp/farpose-mps-log
  mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
  trap 'echo quit | nvidia-cuda-mps-control >/dev/null 2>&1 || true' EXIT
  if nvidia-cuda-mps-control -d && timeout 60 python3 -c 'import torch; torch.ones(1, device="cuda")' 2>/dev/null; then
    echo "multi-process service: on"
  else
    echo quit | nvidia-cuda-mps-control >/dev/null 2>&1 || true
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    echo "multi-process service: not available"
  fi
fi

# Larger crops are made while the first runs train.
sizes=(${SIZES:-64x48 128x96 256x192})
python3 -m benchmarks.study unpack artifacts/study/pack "$shards" --sizes "${sizes[0]}"
(( ${#sizes[@]} == 1 )) || python3 -m benchmarks.study unpack artifacts/study/pack "$shards" --sizes "${sizes[@]:1}" &
# shellcheck disable=SC2086  # several lists are several words
python3 -m benchmarks.study train $lists "$shards" "$work" --minutes "$minutes" --at-once "$at_once" "${known[@]}" || true
wait %% 2>/dev/null || true
python3 -m benchmarks.study bring "$work" "$out" "${known[@]}"
