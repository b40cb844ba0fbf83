"""Knowledge distillation of image classifiers in JAX.

Networks run on images; a method runs on their features. Start at
`kd_jax.methods.base`, `kd_jax.distill.step` and `kd_jax.main`.
"""

from kd_jax.version import __version__ as __version__
