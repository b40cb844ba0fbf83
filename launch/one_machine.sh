#!/usr/bin/env bash
# Runs kd_jax on all devices of this machine, and again while it asks to be
# started again (exit code 75). A SIGTERM to this script is passed on, and ends
# it with the run's code: a scheduler then starts it again.
#
#   bash launch/one_machine.sh --config fpd --workdir runs/mine
#
# Needs kd_jax installed in the Python that `python` is. Has been run on a
# machine with a CPU; not yet run with a GPU or TPU.
set -u
asked=0
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
  if [ "$code" -ne 75 ] || [ "$asked" -eq 1 ]; then
    exit "$code"
  fi
  echo 'stopped and saved; starting again' >&2
done
