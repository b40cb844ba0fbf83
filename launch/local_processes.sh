#!/usr/bin/env bash
# Runs kd_jax as N processes on this machine, joined as those of a pod are, and
# starts all of them again when they ended to be started again.
#
#   bash launch/local_processes.sh N --config fpd --workdir runs/mine
#
# To try a pod's ways on one machine. Needs kd_jax installed in the Python that
# `python` is; with GPUs, each process takes all of them (to use all GPUs of a
# machine, launch/one_machine.sh is the way). Has been run with CPU devices; not
# yet run with GPUs.
#
# Started again on 75 (stopped and saved), 76 (a process hung), 134 (aborted:
# another process was gone) and death by a signal, MAX_RESTARTS times (100);
# never on 0, 1 and 2. When one process fails, the others have GRACE seconds
# (60) to end by themselves. A SIGTERM to this script goes to all processes, and
# ends it with their code.
set -u
count=${1:?usage: local_processes.sh N [options of kd_jax.main]}
shift
restarts=${MAX_RESTARTS:-100}
asked=0
pids=()
terminate() {
  asked=1
  kill -TERM "${pids[@]}" 2> /dev/null
}
trap terminate TERM INT
trap '[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2> /dev/null' EXIT

start() {
  local port i
  port=$((20000 + RANDOM % 12000))
  while (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do # somebody listens
    port=$((port + 1))
  done
  for ((i = 0; i < count; i++)); do
    JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count \
      JAX_PROCESS_ID=$i python -m kd_jax.main "$@" &
    pids+=($!)
  done
}

# Waits for all; `code` is the one that names the fault: the first that is not 0,
# but for 134 and signals, which may only follow from another's.
finish() {
  local pid ended deadline=0 left
  code=0
  while [ ${#pids[@]} -gt 0 ]; do
    left=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2> /dev/null; then
        left+=("$pid")
        continue
      fi
      wait "$pid"
      ended=$?
      [ "$ended" -eq 0 ] && continue
      [ "$deadline" -ne 0 ] || deadline=$((SECONDS + ${GRACE:-60}))
      if [ "$code" -eq 0 ] || { [ "$code" -ge 128 ] && [ "$ended" -lt 128 ]; }; then
        code=$ended
      fi
    done
    pids=(${left[@]+"${left[@]}"})
    if [ ${#pids[@]} -gt 0 ] && [ "$deadline" -ne 0 ] && [ $SECONDS -ge "$deadline" ]; then
      echo "local_processes: ending ${#pids[@]} that did not end" >&2
      kill -KILL "${pids[@]}" 2> /dev/null
    fi
    sleep 0.2
  done
}

while true; do
  start "$@"
  finish
  case $code in
    75) reason='stopped and saved' ;;
    76) reason='a process hung, and its watchdog ended it' ;;
    134) reason='aborted by the runtime: a process was gone or stopped' ;;
    129 | 13[0-9] | 14[0-9] | 15[0-9])
      reason="a process was ended by signal $((code - 128))"
      ;;
    *) exit "$code" ;;
  esac
  if [ "$asked" -eq 1 ] || [ "$restarts" -eq 0 ]; then
    echo "local_processes: $reason (code $code); not started again" >&2
    exit "$code"
  fi
  restarts=$((restarts - 1))
  echo "local_processes: $reason (code $code); starting again" >&2
done
