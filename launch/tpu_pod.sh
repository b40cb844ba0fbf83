#!/usr/bin/env bash
# Runs kd_jax on all workers of a Cloud TPU slice, one process for each worker.
#
#   bash launch/tpu_pod.sh create --spot   # asks for the slice (a queue)
#   bash launch/tpu_pod.sh state           # ACTIVE: it is there
#   bash launch/tpu_pod.sh install         # this checkout, by launch/*.lock
#   bash launch/tpu_pod.sh run --config fpd --workdir gs://my-bucket/runs/mine \
#     --config.cache_dir=gs://my-bucket/cache
#   bash launch/tpu_pod.sh log             # of the first worker
#   bash launch/tpu_pod.sh stop            # saves; `run` goes on from there
#   bash launch/tpu_pod.sh delete
#
# After a slice was taken away: delete, create, install, and the same `run`.
# The run folder and the cache of teachers must be in a bucket (in the slice's
# region): the workers share no disk, and their disks go with the slice. Each
# worker prepares the data set on its own disk, and starts its process again as
# launch/one_machine.sh says, so `run` may be left alone.
#
# Edit these two lines.
name=${NAME:-kd-jax} zone=${ZONE:-us-east5-b}
type=${TYPE:-v6e-16} runtime=${RUNTIME:-v2-alpha-tpuv6e}
#
# Needs gcloud (logged in, with a project and a quota for the type), Python with
# pip here, and a service account of the slice that may write to the bucket.
# Has been tested with a gcloud that stands in for the real one; not yet run on
# a TPU.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
tpus=(gcloud compute tpus)
on_workers=("${tpus[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=all)

action=${1:-}
shift || true
case $action in
  create)
    "${tpus[@]}" queued-resources create "$name" "--node-id=$name" \
      "--zone=$zone" "--accelerator-type=$type" "--runtime-version=$runtime" \
      --scopes=https://www.googleapis.com/auth/cloud-platform "$@"
    ;;
  state)
    "${tpus[@]}" queued-resources describe "$name" "--zone=$zone" \
      '--format=value(state.state)'
    ;;
  install)
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    python -m pip wheel --quiet --no-deps --wheel-dir "$wheels" "$here"
    "${tpus[@]}" tpu-vm scp "$wheels"/kd_jax-*.whl "$here/launch/one_machine.sh" \
      "$here/launch/base.lock" "$here/launch/tpu.lock" \
      "$name:" "--zone=$zone" --worker=all
    # The images' own Python is too old.
    # shellcheck disable=SC2016  # expanded there, not here
    "${on_workers[@]}" --command='set -e
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --clear --python 3.12 venv
      python3 -m uv pip install --quiet --python venv/bin/python \
        --require-hashes --requirement base.lock --requirement tpu.lock
      python3 -m uv pip install --quiet --python venv/bin/python --no-deps \
        "$(ls -t kd_jax-*.whl | head -1)"'
    ;;
  run)
    arguments=$(printf '%q ' "$@")
    "${on_workers[@]}" --command="PATH=\$HOME/venv/bin:\$PATH \
      nohup bash one_machine.sh $arguments > run.log 2>&1 < /dev/null \
      & echo \$! > run.pid"
    ;;
  log)
    "${tpus[@]}" tpu-vm ssh "$name" "--zone=$zone" --worker=0 \
      --command='tail -n 50 -f run.log'
    ;;
  stop)
    # shellcheck disable=SC2016
    "${on_workers[@]}" --command='kill -TERM "$(cat run.pid)"
      while kill -0 "$(cat run.pid)" 2> /dev/null; do sleep 1; done
      tail -n 1 run.log'
    ;;
  delete)
    "${tpus[@]}" queued-resources delete "$name" "--zone=$zone" --force "$@"
    ;;
  *)
    echo "$0: create, state, install, run, log, stop or delete" >&2
    exit 2
    ;;
esac
