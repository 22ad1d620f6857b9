#!/usr/bin/env bash
# What only a GPU can tell, from the bare source tree, no network:
#
#     benchmarks/gpu.sh               the first call, under five minutes: versions, whether kernels are right, microbenchmarks,
#                                     which plans are right and quick
#     benchmarks/gpu.sh --resume      under nine minutes: what is left of everything, best information first; again until nothing is
#     benchmarks/gpu.sh --rehearse [--first | --resume]     the same code in the simulator, tiny sizes, in a temporary folder:
#                                     measures nothing; without --first everything
#
# Before, on any machine: python -m benchmarks precompile --cc 9.0, whose folder benchmarks/cubins (or RNN_GPU_CUBINS) is taken
# where it is there. Each step writes a JSON file under benchmarks/results/KIND/ (RNN_GPU_RESULTS=FOLDER: under FOLDER/KIND/), after each
# of its cases; a step that fails or runs out of time does not stop the next. After each step one archive of all results and
# the log is written anew: RNN_GPU_ARCHIVE=PATH, else gpu.tar.gz beside the results; --resume takes from it what is not there.
# Also: PYTHON=the interpreter, RNN_GPU_SECONDS=the time for everything, RNN_GPU_STEPS=which steps ("smoke micro"),
# RNN_GPU_COMMIT=what to call the tree where it is no checkout, RNN_GPU_VERSIONS=any to go on with versions that nobody has tried.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false MPLBACKEND=Agg

# which steps, and how long
first="smoke micro tuning"
all="smoke micro tuning suite steps sequence_length custom launch reference_points report"
declare -A seconds=([smoke]=75 [micro]=90 [tuning]=90 [suite]=110 [steps]=130 [sequence_length]=55 [custom]=60
    [launch]=20 [reference_points]=35 [report]=15)
rehearse=() resume=() wanted=
for option in "$@"; do
    case $option in
    --rehearse) rehearse=(--rehearse) ;;
    --resume) resume=(--resume) ;;
    --first) wanted=$first ;;
    *)
        sed -n '2,17s/^# \?//p' "${BASH_SOURCE[0]}"
        exit 2
        ;;
    esac
done
if [ ${#rehearse[@]} = 1 ]; then
    export NUMBA_ENABLE_CUDASIM=1 OMP_NUM_THREADS=1
    export RNN_GPU_RESULTS=${RNN_GPU_RESULTS:-$(mktemp -d)}
    wanted=${wanted:-$all}
elif [ ${#resume[@]} = 1 ]; then
    wanted=${wanted:-$all}
else
    wanted=${wanted:-$first}
fi
total=525
[ "$wanted" = "$first" ] && total=260
if [ ${#rehearse[@]} = 1 ]; then # however busy the machine is: nothing is measured
    total=900
    for name in $all; do seconds[$name]=120; done
fi
total=${RNN_GPU_SECONDS:-$total}
read -ra names <<<"${RNN_GPU_STEPS:-$wanted}"
for name in "${names[@]}"; do
    [ -n "${seconds[$name]-}" ] || { echo "RNN_GPU_STEPS has $name, expected some of $all"; exit 2; }
done

# where results, the log and the archive go
results=${RNN_GPU_RESULTS:-benchmarks/results}
archive=${RNN_GPU_ARCHIVE:-$results/gpu.tar.gz}
mkdir -p "$results" "$(dirname "$archive")" || exit 1
if [ ${#resume[@]} = 1 ] && [ -f "$archive" ]; then
    tar xzf "$archive" -C "$results" --skip-old-files || echo "$archive cannot be read: going on without it"
fi
log=$results/gpu.log
trap "" PIPE # whoever reads may be gone: go on for the archive
exec > >(trap "" TERM INT HUP; exec tee -a "$log") 2>&1
printer=$!
printf '\n== %s gpu.sh %s\n' "$(date -u +%FT%TZ)" "$*"

pack() { # the archive is whole at any moment
    local unfinished=$archive.$$
    tar czf "$unfinished" -C "$results" --exclude='./gpu.tar.gz*' --exclude='*.unfinished' . 2>/dev/null
    mv -f "$unfinished" "$archive"
}

running=
finish() { # status
    [ -n "$running" ] && kill -TERM "$running" 2>/dev/null && wait "$running"
    pack
    exec >&- 2>&-
    wait "$printer"
    pack # the end of the log too
    exit "$1"
}
trap 'trap "" TERM INT HUP; echo "cut after $SECONDS s"; finish 143' TERM INT HUP

if [ -z "${CUDA_HOME-}" ]; then # where numba-cuda finds libNVVM if no wheel brings it
    for home in "$(dirname "$(dirname "$(command -v nvcc || echo /none/bin/nvcc)")")" /usr/local/cuda; do
        if [ -d "$home/nvvm" ]; then
            export CUDA_HOME=$home
            break
        fi
    done
fi

run() { # seconds, command...: its exit status; a signal to this script is not waited for
    local give=$1
    shift
    timeout -k 5 "$give" "$@" &
    running=$!
    wait "$running"
    local status=$?
    running=
    return $status
}

summary=()
step() { # index
    local name=${names[$1]} give=${seconds[${names[$1]}]} later=0 i status started=$SECONDS
    for ((i = $1 + 1; i < ${#names[@]}; i++)); do later=$((later + seconds[${names[i]}])); done
    local left=$((total - SECONDS))
    # what is left over goes to the table of steps, or to the last before the report
    if [ "$name" = steps ] || [ "${names[$(($1 + 1))]:-report}" = report ] && [[ " ${names[*]:$1} " != *" steps "* ]]; then
        ((left - later > give)) && give=$((left - later))
    fi
    ((give > left)) && give=$left
    if ((give < 8)); then
        summary+=("$name: no time left")
        return
    fi
    printf '\n== %s (%s s)\n' "$name" "$give"
    local options=("${rehearse[@]}")
    [ "$name" = report ] || options+=(--seconds $((give > 30 ? give - 15 : give - 5)) "${resume[@]}")
    run "$give" "$python" -m benchmarks "$name" "${options[@]}"
    status=$?
    summary+=("$name: exit $status after $((SECONDS - started)) s$( ((status == 124 || status == 137)) && echo ', cut')")
    pack
    return $status
}

"$python" --version || finish 1
if [ ${#resume[@]} = 1 ]; then
    wanted_names=${names[*]}
    read -ra names <<<"$("$python" -m benchmarks._machine "${rehearse[@]}" "${names[@]}")"
    for name in $wanted_names; do
        [[ " ${names[*]} " == *" $name "* ]] || summary+=("$name: complete before")
    done
fi
export RNN_GPU_CUBINS=${RNN_GPU_CUBINS:-$PWD/benchmarks/cubins}
if [ ! -d "$RNN_GPU_CUBINS" ]; then
    unset RNN_GPU_CUBINS
elif [ ${#rehearse[@]} = 0 ] && ! run 60 "$python" -m benchmarks precompile --check --into "$RNN_GPU_CUBINS"; then
    unset RNN_GPU_CUBINS
fi
for index in "${!names[@]}"; do
    step "$index"
    if [ $? = 3 ] && [ "${names[$index]}" = smoke ]; then # there is nothing to measure on
        finish 3
    fi
done
printf '\n== summary, %s s\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
echo "everything so far: $archive"
finish 0
