#!/usr/bin/env bash
# Runs kd_jax on one machine, whatever it has: one process drives all its GPUs,
# or TPUs, or the CPU; there is nothing to say for several. On the workers of a
# TPU pod one such script runs on each (launch/tpu_pod.sh).
#
#   bash launch/one_machine.sh --config fpd --workdir runs/mine
#
# Starts the run again while it asks for that: where it stopped and saved (exit
# code 75), hung (76), or its runtime gave up (134), but not for lack of memory.
# The pause before it doubles from PAUSE seconds (1) to 60 while no checkpoint
# is new, and after 3 such starts (STALLED) the script ends with the run's code;
# a new checkpoint begins both counts again. A SIGTERM to this script is passed
# on, and ends it with the run's code: a scheduler then starts it again.
#
# CUDA_VISIBLE_DEVICES=0,1 keeps a run to some of the GPUs.
#
# Needs kd_jax installed in the Python that `python` is. Has been run on a
# machine with a CPU; not yet run with a GPU or TPU.
set -u
trap '' PIPE # where nobody reads the words, the run goes on
whole() { # $1 is called $2: ends the script unless it is a whole number
  case $1 in
    '' | *[!0-9]* | ??????*)
      echo "one_machine: $2=$1: give a whole number below 100000" >&2
      exit 2
      ;;
  esac
}
first=${PAUSE:-1} most=${STALLED:-3}
whole "$first" PAUSE
whole "$most" STALLED
first=$((10#$first))

place=$(mktemp -d) || exit 1
trap 'rm -rf "$place"' EXIT
export KD_JAX_BEGINS=$place/begins # the run writes where it begins
asked=0 child='' last='' stalled=0 pause=$first
trap 'asked=1; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null' TERM
trap 'asked=1' INT # the run gets it too, and saves

await() { # waits for the child; `code` is its exit code
  wait "$child"
  code=$?
  while kill -0 "$child" 2> /dev/null; do # a trap ended the first wait
    wait "$child"
    code=$?
  done
  child=''
}

# Whether the end of stderr tells of memory; `tee` may be a little late.
lacks_memory() {
  for _ in 1 2 3; do
    tail -n 50 "$place/said" 2> /dev/null |
      grep -Eiq 'bad_alloc|out of memory|cannot allocate memory' && return 0
    sleep 0.1
  done
  return 1
}

while true; do
  : > "$KD_JAX_BEGINS"
  python -m kd_jax.main "$@" \
    2> >(trap '' INT TERM && exec tee "$place/said" >&2) &
  child=$!
  [ "$asked" -eq 0 ] || kill -TERM "$child"
  await
  [ "$asked" -eq 0 ] || exit "$code"
  case $code in
    75) why='stopped and saved' ;;
    76) why='hung, and its watchdog ended it' ;;
    134)
      if lacks_memory; then
        echo 'one_machine: aborted (134) for lack of memory; not started again' >&2
        exit 134
      fi
      why='aborted by its runtime'
      ;;
    137)
      echo 'one_machine: killed (137): where memory ran out it was the kernel' \
        '(dmesg says so); not started again' >&2
      exit 137
      ;;
    *) exit "$code" ;;
  esac
  begins=$(cat "$KD_JAX_BEGINS")
  if [ -n "$begins" ] && [ "$begins" != "$last" ]; then
    last=$begins stalled=0 pause=$first
  elif [ "$stalled" -ge "$most" ]; then
    echo "one_machine: $why ($code), and no checkpoint is new after $stalled" \
      'restarts; not started again' >&2
    exit "$code"
  fi
  stalled=$((stalled + 1))
  echo "one_machine: $why ($code); starting again in $pause s" >&2
  sleep "$pause" &
  child=$!
  [ "$asked" -eq 0 ] || kill -TERM "$child" # SIGTERM came before `child` was set
  ended=$code
  await
  [ "$asked" -eq 0 ] || exit "$ended"
  pause=$((pause * 2 < 60 ? pause * 2 : 60))
done
