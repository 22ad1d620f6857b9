#!/usr/bin/env bash
# What only a GPU can tell, in one go of under nine minutes, best information first:
#
#     benchmarks/gpu.sh               on a machine with a GPU, from the bare source tree, no network
#     benchmarks/gpu.sh --rehearse    the same code in the simulator, tiny sizes, into a temporary folder: measures nothing
#
# Each step writes a JSON file under benchmarks/results/KIND/ (RNN_GPU_RESULTS=FOLDER: under FOLDER/KIND/) as soon as it ends,
# tables after each case; a step that fails or runs out of time does not stop the next. Also: PYTHON=the interpreter,
# RNN_GPU_SECONDS=the time for everything, RNN_GPU_STEPS=which steps ("smoke micro"; else all),
# RNN_GPU_COMMIT=what to call the tree where it is no checkout.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false MPLBACKEND=Agg
total=${RNN_GPU_SECONDS:-525}
rehearse=()
case "${1-}" in
"") ;;
--rehearse)
    rehearse=(--rehearse)
    export NUMBA_ENABLE_CUDASIM=1 OMP_NUM_THREADS=1
    export RNN_GPU_RESULTS=${RNN_GPU_RESULTS:-$(mktemp -d)}
    ;;
*)
    sed -n '2,10s/^# \?//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
if [ -z "${CUDA_HOME-}" ]; then # where numba-cuda finds libNVVM if no wheel brings it
    for home in "$(dirname "$(dirname "$(command -v nvcc || echo /none/bin/nvcc)")")" /usr/local/cuda; do
        if [ -d "$home/nvvm" ]; then
            export CUDA_HOME=$home
            break
        fi
    done
fi

# seconds of each step; what is left over goes to the table of steps
declare -A seconds=([smoke]=55 [suite]=110 [micro]=45 [steps]=130 [sequence_length]=55 [custom]=60
    [launch]=20 [reference_points]=35 [report]=15)
all="smoke suite micro steps sequence_length custom launch reference_points report"
read -ra names <<<"${RNN_GPU_STEPS:-$all}"
for name in "${names[@]}"; do
    [ -n "${seconds[$name]-}" ] || { echo "RNN_GPU_STEPS has $name, expected some of $all"; exit 2; }
done
summary=()

step() { # index
    local name=${names[$1]} give=${seconds[${names[$1]}]} later=0 i status started=$SECONDS
    for ((i = $1 + 1; i < ${#names[@]}; i++)); do later=$((later + seconds[${names[i]}])); done
    local left=$((total - SECONDS))
    [ "$name" = steps ] && give=$((left - later))
    ((give > left)) && give=$left
    if ((give < 8)); then
        summary+=("$name: no time left")
        return
    fi
    printf '\n== %s (%s s)\n' "$name" "$give"
    local options=("${rehearse[@]}")
    [ "$name" = report ] || options+=(--seconds $((give > 30 ? give - 15 : give - 5)))
    timeout -k 5 "$give" "$python" -m benchmarks "$name" "${options[@]}"
    status=$?
    summary+=("$name: exit $status after $((SECONDS - started)) s$( ((status == 124 || status == 137)) && echo ', cut')")
    return $status
}

"$python" --version || exit 1
for index in "${!names[@]}"; do
    step "$index"
    if [ $? = 3 ] && [ "${names[$index]}" = smoke ]; then # there is nothing to measure on
        exit 3
    fi
done
printf '\n== summary, %s s\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
