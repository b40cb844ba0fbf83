"""Networks by name, with their parameters, FLOPs and taps."""

from kd_jax.models.registry import NETWORKS as NETWORKS
from kd_jax.models.registry import Description as Description
from kd_jax.models.registry import Function as Function
from kd_jax.models.registry import describe as describe
from kd_jax.models.registry import image_size as image_size
from kd_jax.models.registry import is_function as is_function
from kd_jax.models.registry import last_maps as last_maps
from kd_jax.models.registry import make as make
from kd_jax.models.registry import task as task
