"""A network that no compiler can compile."""

import flax.linen as nn
import jax

from kd_jax.features import tap


class Net(nn.Module):
  """A network that can be traced, but calls a kernel that does not exist."""

  num_classes: int

  @nn.compact
  def __call__(self, images, *, train):
    x = jax.lax.stop_gradient(images.mean(axis=(1, 2)))
    result_shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    x = jax.ffi.ffi_call('kd_jax_no_such_kernel', result_shape)(x)
    return tap(self, 'logits', nn.Dense(self.num_classes)(x))
