#!/usr/bin/env bash
# What a card shows in ten minutes: bash tests/benchmarks/gpu.sh [--smallest]; PYTHON has what requirements.txt lists.
cd "$(dirname "$0")/../.." && PYTHONUTF8=1 exec "${PYTHON:-.venv/bin/python}" -m tests.benchmarks.gpu "$@"
