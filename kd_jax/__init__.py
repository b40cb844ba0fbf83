"""Knowledge distillation of image classifiers in JAX.

Networks run on images; a method runs on their features. Start at
`kd_jax.methods.base`, `kd_jax.step` and `kd_jax.main`.
"""

__version__ = '0.1.0'
