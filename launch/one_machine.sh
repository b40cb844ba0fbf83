#!/usr/bin/env bash
# Runs kd_jax on one machine, whatever it has: one process drives all its GPUs,
# or TPUs, or the CPU; there is nothing to say for several. On the workers of a
# TPU pod one such script runs on each (launch/tpu_pod.sh).
#
#   bash launch/one_machine.sh --config fpd --workdir runs/mine
#
# Starts the run again while it asks for that: without end where it stopped and
# saved (exit code 75), three times where it hung (76) or its runtime gave up
# (134). A SIGTERM to this script is passed on, and ends it with the run's code:
# a scheduler then starts it again.
#
# CUDA_VISIBLE_DEVICES=0,1 keeps a run to some of the GPUs.
#
# Needs kd_jax installed in the Python that `python` is. Has been run on a
# machine with a CPU; not yet run with a GPU or TPU.
set -u
asked=0
left=3
while true; do
  python -m kd_jax.main "$@" &
  child=$!
  trap 'asked=1; kill -TERM "$child"' TERM
  wait "$child"
  code=$?
  while kill -0 "$child" 2> /dev/null; do # the trap ended the first wait
    wait "$child"
    code=$?
  done
  if [ "$asked" -eq 1 ]; then
    exit "$code"
  fi
  case $code in
    75) echo 'stopped and saved; starting again' >&2 ;;
    76 | 134)
      if [ "$left" -eq 0 ]; then
        exit "$code"
      fi
      left=$((left - 1))
      echo "ended with $code; starting again, $left times more" >&2
      ;;
    *) exit "$code" ;;
  esac
done
