#!/usr/bin/env bash
# Edit the next two lines: how many nodes with how many GPUs, and how long.
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --job-name=kd_jax --output=kd_jax-%j.log --open-mode=append
#SBATCH --requeue --signal=TERM@120
#
# Runs kd_jax on the nodes of a SLURM job, one process for each GPU.
#
#   . .venv/bin/activate
#   sbatch launch/slurm.sh --config fpd --workdir /shared/runs/mine
#
# The processes find one another by SLURM's variables. All GPUs of a node are
# visible to each of its processes, and each takes its own: do not bind them.
#
# 120 seconds before the time is over SLURM tells the processes to stop; they
# save and end with 75, and the job goes back into the queue, at most 50 times.
# Where a process hung (76) or lost a peer (134), but not where memory ran out,
# all of them are started again in place, at most three times, after 5, 20 and
# 60 seconds (PAUSES). Every other end is the job's end, and so is `scancel`.
# SLURM itself requeues a job whose node failed, or that it preempts.
#
# Needs a virtual environment with kd_jax and the run folder on a file system
# that all nodes share, and jobs that may be requeued (JobRequeue). Has been
# tested with an srun that stands in for SLURM's; not yet run on a cluster.
set -u
trap '' PIPE # where nobody reads the words, the run goes on
cancelled=0
trap 'cancelled=1' TERM # comes here by scancel and preemption only

requeued=${SLURM_RESTART_COUNT:-0}
for number in "$requeued" ${PAUSES:=5 20 60}; do
  case $number in
    '' | *[!0-9]*)
      echo "slurm: $number is no whole number (SLURM_RESTART_COUNT, PAUSES)" >&2
      exit 2
      ;;
  esac
done
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT

# Whether the end of stderr tells of memory; `tee` may be a little late.
lacks_memory() {
  for _ in 1 2 3; do
    tail -n 50 "$said" | grep -Eiq \
      'bad_alloc|out of memory|cannot allocate memory|oom.kill' && return 0
    sleep 0.1
  done
  return 1
}

for pause in $PAUSES end; do
  # A fault of one process must end the others; who saves may take a minute.
  srun --kill-on-bad-exit=0 --wait=120 --gpu-bind=none \
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    python -m kd_jax.main "$@" 2> >(trap '' INT TERM && exec tee "$said" >&2)
  code=$?
  if [ "$cancelled" -eq 1 ]; then
    exit "$code"
  fi
  case $code in
    76 | 134 | 137)
      if [ "$code" -ne 76 ] && lacks_memory; then
        echo "ended with $code, as memory ran out; not started again" >&2
        break
      fi
      if [ "$code" -eq 137 ]; then
        echo 'killed (137), by the kernel if memory ran out' >&2
        break
      fi
      [ "$pause" != end ] || break
      echo "ended with $code; starting again in $pause s" >&2
      sleep "$pause" &
      wait "$!" # a signal ends it
      [ "$cancelled" -eq 0 ] || exit "$code"
      ;;
    *) break ;;
  esac
done
if [ "$code" -eq 75 ] && [ "$requeued" -lt 50 ]; then
  echo 'stopped and saved; back into the queue' >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
