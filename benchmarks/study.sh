#!/usr/bin/env bash
# Trainings of a study on a bare GPU machine: bash benchmarks/study.sh LIST [MINUTES] [AT_ONCE]
# Beforehand, where the data are: python -m benchmarks.study pack artifacts/persons data/coco artifacts/study/pack
# The parts may travel one by one. Results go to $OUT (or results/lowres), weights in half precision packed by tens of MiB.
set -euo pipefail
list=$1 minutes=${2:-8} at_once=${3:-4}
out=${OUT:-results/lowres}
shards=artifacts/study/shards work=artifacts/study/work
python3 -m benchmarks.study unpack artifacts/study/pack "$shards" --sizes ${SIZES:-64x48 128x96 256x192}
python3 -m benchmarks.study train "$list" "$shards" "$work" --minutes "$minutes" --at-once "$at_once" || true
python3 -m benchmarks.study bring "$work" "$out"
