#!/usr/bin/env bash
# Checks lmcore on a GPU, then measures it: one command for a machine with a GPU and torch, with or without a network.
#
#   bash tests/bench/gpu.sh --nanogpt DIR                    # on the machine with the GPU: nine minutes
#   bash tests/bench/gpu.sh --device cpu --quick --out FILE  # everything with tiny models, on a CPU: a minute
#   bash tests/bench/gpu.sh --wheels [X.Y]                   # beforehand, where there is a network: packages to carry
#   bash tests/bench/gpu.sh --help                           # all options
#
# It needs a python3 (or $PYTHON) that has torch 2.11 or newer. What else lmcore's training needs (pydantic, numpy,
# safetensors) is taken from wheels in build/wheels, if the machine lacks it, and installed for this run alone.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
wheels=$root/build/wheels
python=${PYTHON:-python3}

# Packages to import, and the distributions that each comes with.
declare -A distributions=(
    [pydantic]="pydantic pydantic_core annotated_types typing_inspection typing_extensions"
    [numpy]="numpy"
    [safetensors]="safetensors"
)

if [ "${1:-}" = --wheels ]; then
    version=${2:-3.12}
    rm -f "$wheels"/*.whl
    pins=()
    for distribution in ${distributions[*]}; do
        pins+=("$(grep -i -E "^${distribution//_/[-_]}==" "$root/constraints.txt")")
    done
    platforms=()
    for platform in 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${platform}_x86_64"); done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
        "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$wheels" "${pins[@]}"
    ls "$wheels"
    exit 0
fi

"$python" -c "import torch" 2>/dev/null || { echo "$python has no torch: name one that has with PYTHON=..." >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for package in "${!distributions[@]}"; do
    if "$python" -c "import $package" 2>/dev/null; then continue; fi
    files=()
    for distribution in ${distributions[$package]}; do
        file=$(compgen -G "$wheels/$distribution-*.whl" | head -n 1) || {
            echo "$python lacks $package, and $wheels has no wheel of $distribution: where there is a network, run" \
                "'bash tests/bench/gpu.sh --wheels X.Y' for the Python X.Y of this machine, and carry the folder" >&2
            exit 2
        }
        files+=("$file")
    done
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip install --quiet \
        --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" --upgrade "${files[@]}"
done

# Each process that compiles ahead starts so many compilers.
export TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-2}
export KINETO_LOG_LEVEL=${KINETO_LOG_LEVEL:-99}  # torch's profiler, by which memory is measured, logs to stderr
export PYTHONUNBUFFERED=1 PYTHONPATH=$scratch/site:$root${PYTHONPATH:+:$PYTHONPATH}
"$python" -P -m tests.bench.gpu "$@"
