#!/usr/bin/env bash
# Writes the lock files of this folder: the newest versions that pyproject.toml
# allows with Python 3.12 on Linux x86_64 (glibc 2.31), and their files' hashes.
#
#   pip install uv && bash launch/lock.sh
#
# base.lock has kd_jax's own dependencies, those of [gcs] and what builds the
# wheel; cuda.lock and tpu.lock have what [cuda13] and [tpu] add to it. The
# Dockerfiles install from them. Needs uv and a package index. Has been run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
head='# Written by launch/lock.sh: edit pyproject.toml, and run it again.'

compile() { # $1.lock, from pyproject.toml and further arguments
  local name=$1
  shift
  uv pip compile pyproject.toml "$place/build.in" --extra gcs "$@" --quiet \
    --upgrade --python-version 3.12 --python-platform x86_64-manylinux_2_31 \
    --generate-hashes --no-header --no-annotate --no-emit-index-url \
    --no-emit-find-links --output-file "$place/$name.lock"
  { echo "$head"; cat "$place/$name.lock"; } > "launch/$name.lock"
}

python3 - > "$place/build.in" << 'END'
import tomllib

with open('pyproject.toml', 'rb') as file:
  print(*tomllib.load(file)['build-system']['requires'], sep='\n')
END
compile base
mapfile -t named < <(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package=\1/p' launch/base.lock)
compile cuda --extra cuda13 --constraint launch/base.lock "${named[@]}"
compile tpu --extra tpu --constraint launch/base.lock "${named[@]}"
