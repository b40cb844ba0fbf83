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
# another process was gone) and death by a signal, but not where memory ran out;
# MAX_RESTARTS times (100) in all, and STALLED times (3) in a row without a new
# checkpoint; never on 0, 1 and 2. The pause before it doubles from PAUSE
# seconds (1) to 60 in such a row. When one process fails, the others have GRACE
# seconds (60) to end by themselves. A SIGTERM to this script goes to all
# processes, and ends it with their code.
set -u
trap '' PIPE # where nobody reads the words, the run goes on
whole() { # $1 is called $2: ends the script unless it is a whole number
  case $1 in
    '' | *[!0-9]* | ??????*)
      echo "local_processes: $2=$1: give a whole number below 100000" >&2
      exit 2
      ;;
  esac
}
case ${1:-} in
  [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) count=$1 ;;
  *)
    echo "local_processes: N=${1:-}: give the number of processes, 1 to 999:" \
      'local_processes.sh N [options of kd_jax.main]' >&2
    exit 2
    ;;
esac
shift
restarts=${MAX_RESTARTS:-100} grace=${GRACE:-60}
first=${PAUSE:-1} most=${STALLED:-3}
whole "$restarts" MAX_RESTARTS
whole "$grace" GRACE
whole "$first" PAUSE
whole "$most" STALLED
restarts=$((10#$restarts)) grace=$((10#$grace)) first=$((10#$first))

place=$(mktemp -d) || exit 1
asked=0 last='' stalled=0 pause=$first
pids=()
terminate() {
  asked=1
  kill -TERM ${pids[@]+"${pids[@]}"} 2> /dev/null
}
trap terminate TERM INT
trap '[ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2> /dev/null
  rm -rf "$place"' EXIT

# How often the kernel has killed for memory in this group of processes.
ooms() {
  grep -hs '^oom_kill ' "${MEMORY_EVENTS:-/sys/fs/cgroup/memory.events}" \
    "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.events"
}

# Whether memory ran out: the kernel counted it, or the end of a process's
# stderr tells of it; `tee` may be a little late.
lacks_memory() {
  for _ in 1 2 3; do
    [ "$(ooms)" = "$killed" ] || return 0
    tail -qn 50 "$place"/said-* |
      grep -Eiq 'bad_alloc|out of memory|cannot allocate memory' && return 0
    sleep 0.1
  done
  return 1
}

start() {
  local port i
  rm -f "$place"/*
  killed=$(ooms)
  port=$((20000 + RANDOM % 12000))
  while (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do # somebody listens
    port=$((port + 1))
  done
  for ((i = 0; i < count; i++)); do
    JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count \
      JAX_PROCESS_ID=$i KD_JAX_BEGINS=$place/begins-$i \
      python -m kd_jax.main "$@" \
      2> >(trap '' INT TERM && exec tee "$place/said-$i" >&2) &
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
      [ "$deadline" -ne 0 ] || deadline=$((SECONDS + grace))
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
    137) reason='a process was ended by signal 9 (kill, or the kernel)' ;;
    129 | 13[0-9] | 14[0-9] | 15[0-9])
      reason="a process was ended by signal $((code - 128))"
      ;;
    *) exit "$code" ;;
  esac
  if [ "$code" -ge 128 ] && lacks_memory; then
    echo "local_processes: $reason, as memory ran out (code $code); not started" \
      'again' >&2
    exit "$code"
  fi
  begins=$(cat "$place/begins-0" 2> /dev/null)
  if [ -n "$begins" ] && [ "$begins" != "$last" ]; then
    last=$begins stalled=0 pause=$first
  fi
  if [ "$stalled" -ge "$most" ]; then
    reason="$reason, and no checkpoint is new after $stalled restarts"
    restarts=0
  fi
  if [ "$asked" -eq 1 ] || [ "$restarts" -eq 0 ]; then
    echo "local_processes: $reason (code $code); not started again" >&2
    exit "$code"
  fi
  restarts=$((restarts - 1)) stalled=$((stalled + 1))
  echo "local_processes: $reason (code $code); starting again in $pause s" >&2
  sleep "$pause" &
  pids=("$!")
  [ "$asked" -eq 0 ] || terminate # SIGTERM came before `pids` was set
  wait "$!"
  pids=()
  if [ "$asked" -eq 1 ]; then
    exit "$code"
  fi
  pause=$((pause * 2 < 60 ? pause * 2 : 60))
done
