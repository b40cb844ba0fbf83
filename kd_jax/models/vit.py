"""Vision transformers: ViT, and DeiT with its distillation token.

Blocks normalise before attention and before the MLP; queries, keys and values
have biases, position embeddings are learned and the GELU is exact. Weights
start as in DeiT's code.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron
et al., "Training data-efficient image transformers & distillation through
attention", ICML 2021; timm (vision_transformer.py, deit.py) and torchvision
(vision_transformer.py) for names and parameter counts.
"""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers


class Attention(nn.Module):
  """Self-attention of several heads.

  Attributes:
    heads: The number of heads, which divides the channels.
    dtype: The dtype of the computation; the softmax is float32.
  """

  heads: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N,T,C] for the tokens x [N,T,C]."""
    count, tokens, width = x.shape
    qkv = layers.token_linear(3 * width, self.dtype, 'qkv')(x)
    qkv = qkv.reshape(count, tokens, 3, self.heads, width // self.heads)
    query, key, value = (qkv[:, :, i] for i in range(3))
    y = jax.nn.dot_product_attention(query, key, value)
    return layers.token_linear(width, self.dtype, 'out')(y.reshape(x.shape))


class Block(nn.Module):
  """A block of a transformer: attention and an MLP, both residual.

  Attributes:
    heads: See `Attention`.
    expansion: The factor of the channels within the MLP.
    drop_path: The rate of stochastic depth; see `layers.drop_path`.
    dtype: The dtype of the computation.
  """

  heads: int
  expansion: int
  drop_path: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,T,C] for the tokens x [N,T,C]."""
    drop = functools.partial(layers.drop_path, rate=self.drop_path, train=train)
    y = layers.layer_norm('ln1')(x)
    x = x + drop(Attention(self.heads, self.dtype, name='attention')(y))
    y = layers.mlp(layers.layer_norm('ln2')(x), self.expansion, self.dtype)
    return x + drop(y)


class ViT(layers.Network):
  """A vision transformer for images of one size; see `layers.Network`.

  The tap 'stage{i}' is the map [N,h,w,C] of the patches' tokens after the i-th
  quarter of the blocks (with `stages=4`), without the class and distillation
  tokens, so that what compares maps compares it with those of a convolutional
  network; 'stage{i}_pre' is the same. 'stem' are the embedded patches before
  the positions are added, and 'pooled' is the class token after the last norm.
  With a distillation token there are the taps 'class_logits' and
  'distilled_logits', and 'logits' is their mean.

  Attributes:
    embedding: The channels of a token, C.
    heads: The number of heads, which divides the channels.
    depth: The number of blocks.
    image_size: The height and width of the images, in pixels.
    patch: The side of a patch, which divides them.
    stages: The number of parts of equal depth at whose ends maps are tapped.
    expansion: The factor of the channels within a block's MLP.
    distilled: Whether there are DeiT's distillation token and its classifier.
    drop_path: The last block's rate of stochastic depth, to which it rises
      linearly from 0 in the first block.
  """

  embedding: int = 192
  heads: int = 3
  depth: int = 12
  image_size: int = 224
  patch: int = 16
  stages: int = 4
  expansion: int = 4
  distilled: bool = False
  drop_path: float = 0.0

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    for whole, part in (('embedding', 'heads'), ('image_size', 'patch')):
      total, count = getattr(self, whole), getattr(self, part)
      if total % count:
        raise errors.ArgumentError(
          f'{part}={count}: it must divide {whole}={total}'
        )
    if self.depth < self.stages:
      raise errors.ArgumentError(
        f'stages={self.stages}: there are {self.depth} blocks (depth); give '
        'at most as many'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,S,S,3].

    Raises:
      UsageError: The images are not `image_size` pixels wide and high.
    """
    if images.shape[1:3] != (self.image_size,) * 2:
      raise errors.UsageError(
        f'images of {images.shape[1]}x{images.shape[2]} pixels, and the '
        f'transformer has positions for {self.image_size}: give its argument '
        'image_size, and a patch that divides it'
      )
    patches = layers.Conv(
      self.embedding,
      self.patch,
      self.patch,
      padding=0,
      dtype=self.dtype,
      kernel_init=layers.torch_init,
      bias_init=layers.torch_bias_init(3 * self.patch**2),
      name='patch',
    )(images)
    x = self._tokens(tap(self, 'stem', patches))
    rates = layers.rates(self.drop_path, self.depth)
    ends = [self.depth * i // self.stages for i in range(1, self.stages + 1)]
    for i, rate in enumerate(rates, 1):
      x = Block(self.heads, self.expansion, rate, self.dtype, name=f'block{i}')(
        x, train=train
      )
      if i in ends:
        stage = f'stage{ends.index(i) + 1}'
        tokens = x[:, 1 + self.distilled :].reshape(patches.shape)
        tap(self, stage, tap(self, f'{stage}_pre', tokens))
    x = layers.layer_norm('ln_last')(x)
    if not self.distilled:
      return self.classify(x[:, 0], layers.token_init, nn.initializers.zeros)
    tap(self, 'pooled', x[:, 0])
    mean = (self._head(x[:, 0], 'class') + self._head(x[:, 1], 'distilled')) / 2
    return tap(self, 'logits', mean)

  def _tokens(self, patches: jax.Array) -> jax.Array:
    """Returns the tokens [N,T,C] of patches [N,h,w,C], with positions."""
    count, *_, width = patches.shape
    x = patches.reshape(count, -1, width)
    names = ('class', 'distillation') if self.distilled else ('class',)
    shape = (1, 1, width)
    tokens = [
      self.param(f'{name}_token', layers.token_init, shape) for name in names
    ]
    first = jnp.concatenate(tokens, axis=1).astype(x.dtype)
    first = jnp.broadcast_to(first, (count, *first.shape[1:]))
    x = jnp.concatenate([first, x], axis=1)
    positions = self.param('positions', layers.token_init, (1, *x.shape[1:]))
    return x + positions.astype(x.dtype)

  def _head(self, x: jax.Array, kind: str) -> jax.Array:
    """Returns the logits [N,K] f32 of a token [N,C], which are tapped."""
    name = 'fc' if kind == 'class' else f'fc_{kind}'
    logits = layers.token_linear(self.num_classes, self.dtype, name)(x)
    return tap(self, f'{kind}_logits', logits.astype(jnp.float32))


NETWORKS: dict[str, Callable[..., ViT]] = {
  f'{family}_{size}': functools.partial(
    ViT, embedding=64 * heads, heads=heads, distilled=family == 'deit'
  )
  for family in ('vit', 'deit')
  for size, heads in (('tiny', 3), ('small', 6), ('base', 12))
}
