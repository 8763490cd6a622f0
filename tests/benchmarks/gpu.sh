#!/usr/bin/env bash
# Every benchmark that wants a graphics card, one after the other, each with its output in a file.
#
#   bash tests/benchmarks/gpu.sh [RESULTS [PYTHON]]    in the folder of the README; PYTHON has what requirements.txt lists
#   SMALLEST=1 bash tests/benchmarks/gpu.sh            each in its smallest form, also without a card: do they start at all
#
# Models are built with random weights from the families' settings, so nothing is downloaded. One that fails is told, and
# the next one begins; the exit code is the number of those that failed.
set -uo pipefail
cd "$(dirname "$0")/../.."
results="${1:-lora_out/gpu}"
python="${2:-.venv/bin/python}"
mkdir -p "$results"
failed=0
export PYTHONUTF8=1

run() { # NAME MODULE ARGUMENTS
    local name="$1"
    shift
    printf '== %s: python -m tests.benchmarks.%s\n' "$name" "$*"
    if ! "$python" -m "tests.benchmarks.$1" "${@:2}" 2>"$results/$name.err" | tee "$results/$name.txt"; then
        printf '%s failed:\n' "$name"
        tail -n 5 "$results/$name.err"
        failed=$((failed + 1))
    fi
}

{ nvidia-smi || true; "$python" -c 'import torch; print("torch", torch.__version__, torch.version.cuda)'; nproc; date -u; } \
    >"$results/machine.txt" 2>&1

if [ -n "${SMALLEST:-}" ]; then
    run step-starter step starter --rounds 1 --steps 1
    run memory memory --cards
    run prepare-starter prepare --pictures 2 --rounds 1
    run startup startup --rounds 1
    run concept time_to_concept --presets careful:max_train_steps=2 --every 2 --prompts 1 --limit-s 300 \
        --out "$results/concept"
    exit "$failed"
fi

# The step beside the textbook loop: launch-bound at batch 1, arithmetic at batch 8.
run step-sd1 step sd1 --rounds 9 --steps 20
run step-sd1-batch8 step sd1 --batch 8 --rounds 7 --steps 10
run step-sdxl step sdxl --rounds 7 --steps 8
run step-starter step starter --rounds 9 --steps 20
# What each level of memory costs in speed, and what steps as graphs gain.
run step-levels-sd1 step sd1 --levels --rounds 7 --steps 20
run step-levels-sdxl step sdxl --levels --rounds 5 --steps 8
# Peaks on the card beside the computed ones; --cards is the table of base-models-and-memory.md, computed everywhere.
run memory memory --families sd1 sd2 sdxl
run memory-batch4 memory --families sd1 sdxl --batch 4
run memory-cards memory --cards
# The whole way through the door with models of full size.
run full-size full_size sd1 sd2 sdxl --resolution 512
# 1,000 photos of 12 megapixels: do they hold the card back, and does memory stay flat.
run prepare-sd1 prepare --base sd1 --pictures 64 256 1000 --rounds 3
run prepare-sdxl prepare --base sdxl --pictures 64 256 --rounds 3
# From the start of the process to the first step, with a warm cache.
run startup startup --rounds 7 --imports
run startup-sd1 startup --base sd1 --rounds 5
run startup-sdxl startup --base sdxl --resolution 1024 --rounds 3
# Seconds to 90 % of the concept.
run concept time_to_concept --presets quickstart quickstart:seed=1 quickstart:seed=2 careful careful:learning_rate=1e-3 \
    --limit-s 1200 --out "$results/concept"
exit "$failed"
