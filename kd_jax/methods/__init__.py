"""Distillation methods, one module each; `base` says what they share."""

from kd_jax.methods.base import Method as Method
from kd_jax.methods.base import WithTaps as WithTaps
from kd_jax.methods.base import WithTeacher as WithTeacher
from kd_jax.methods.registry import make as make
from kd_jax.methods.registry import names as names
