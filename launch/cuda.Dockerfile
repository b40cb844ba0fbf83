# An image of kd_jax for NVIDIA GPUs, which runs `python -m kd_jax.main`:
#
#   docker build --file launch/cuda.Dockerfile --tag kd-jax:cuda .
#   docker run --init --gpus all --volume "$PWD/runs:/work/runs" \
#     --volume kd-jax-cache:/cache kd-jax:cuda --config kd
#
# CUDA comes with JAX's wheels; the machine needs NVIDIA's driver (580 or newer
# for CUDA 13) and its container toolkit.
# Python's versions are those of launch/base.lock and launch/cuda.lock.
FROM python:3.12.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# A run belongs to this user, and so must a folder that is mounted.
RUN useradd --create-home --uid 1000 kd-jax \
  && install --directory --owner=kd-jax /work /work/runs /cache /data

# What changes least comes first, so that a change of the code installs nothing
# again. A lock file is complete: nothing else is looked up.
COPY launch/base.lock /src/launch/
RUN pip install --no-deps --require-hashes --requirement /src/launch/base.lock
COPY launch/cuda.lock /src/launch/
RUN pip install --no-deps --require-hashes --requirement /src/launch/cuda.lock

COPY pyproject.toml README.md LICENSE /src/
COPY configs /src/configs
COPY kd_jax /src/kd_jax
RUN pip install --no-deps --no-build-isolation /src && pip check

USER 1000
WORKDIR /work
ENV KD_JAX_CACHE=/cache TFDS_DATA_DIR=/data
VOLUME ["/work/runs", "/cache"]

# No shell stands between: SIGTERM reaches the run, whose exit code is the
# container's (75: stopped and saved).
ENTRYPOINT ["python", "-m", "kd_jax.main"]
