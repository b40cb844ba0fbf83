"""Data sets: their registry, and how batches are made from them."""

from kd_jax.data.registry import SETS as SETS
from kd_jax.data.registry import SUBSET_SEED as SUBSET_SEED
from kd_jax.data.registry import facts as facts
from kd_jax.data.registry import forget_changed as forget_changed
from kd_jax.data.registry import is_imported as is_imported
from kd_jax.data.registry import open_source as open_source
