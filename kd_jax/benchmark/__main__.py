"""The command `kd-jax benchmark`; see `kd_jax.benchmark`."""

import sys

from kd_jax import benchmark

sys.exit(benchmark.main(sys.argv[1:]))
