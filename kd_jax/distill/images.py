"""Images as a network sees them: of its size, with its normalisation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def seen(
  images: jax.Array,
  size: int,
  normalisation: tuple[Sequence[float], Sequence[float]] | None,
) -> jax.Array:
  """Returns images as a network sees them.

  Args:
    images: Images [N,H,W,3] f32, normalised as in the data set.
    size: The height and width S that the network takes; 0 is the images' own.
    normalisation: The factors and summands of the channels, 3 of each, that
      make the network's normalisation of the data set's; None changes nothing.

  Returns:
    The images, [N,S,S,3] f32.
  """
  images = resized(images, size)
  if normalisation is None:
    return images
  scale, shift = (
    jnp.asarray(x, images.dtype).reshape(1, 1, 1, 3) for x in normalisation
  )
  return images * scale + shift


def resized(images: jax.Array, size: int) -> jax.Array:
  """Returns images at another size: bilinear, with antialiasing.

  Antialiasing widens the triangle where images shrink, as Pillow's bilinear
  filter does; images that grow are interpolated between the centres of pixels.

  Args:
    images: Images [N,H,W,3] f32.
    size: The height and width S in pixels; 0 leaves them as they are.

  Returns:
    The images, [N,S,S,3] f32.
  """
  if not size or images.shape[1:3] == (size, size):
    return images
  shape = (images.shape[0], size, size, images.shape[-1])
  return jax.image.resize(images, shape, 'bilinear', antialias=True)
