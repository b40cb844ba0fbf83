"""Swin: a transformer whose tokens attend within windows of a map.

Every other block shifts its windows by half of their side, so that neighbours
exchange what they hold; between the stages four tokens become one of twice the
channels. Where the windows do not tile a map, tokens of zeros are added below
and on the right, and they are attended to as in the original.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using
Shifted Windows", ICCV 2021; torchvision (swin_transformer.py) for names,
parameter counts and how weights start.
"""

from collections.abc import Callable
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers

# What is added to the score of two tokens that are no neighbours in the map.
_APART = -100.0

_norm = functools.partial(layers.layer_norm, epsilon=1e-5)


def position_index(window: int) -> np.ndarray:
  """Returns which row of the biases belongs to a pair of a window's tokens.

  Args:
    window: The side of a window, w, in tokens.

  Returns:
    [w^4] i64, the numbers from 0 of the rows, which are as many as there are
    differences of two positions, (2w-1)^2. The query's position counts first.
  """
  rows, columns = np.divmod(np.arange(window**2), window)
  down = rows[:, None] - rows[None, :] + window - 1
  right = columns[:, None] - columns[None, :] + window - 1
  return (down * (2 * window - 1) + right).ravel()


def _windows(x: Any, window: int) -> Any:
  """Returns the windows [N,n,w*w,C] of maps [N,H,W,C]; w divides H and W."""
  count, height, width, channels = x.shape
  down, right = height // window, width // window
  x = x.reshape(count, down, window, right, window, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(count, down * right, window**2, channels)


def _maps(x: jax.Array, window: int, height: int) -> jax.Array:
  """Returns the maps [N,H,W,C] of windows [N,n,w*w,C]; see `_windows`."""
  count, number, _, channels = x.shape
  down = height // window
  right = number // down
  x = x.reshape(count, down, right, window, window, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(count, height, right * window, channels)


def _apart(
  sides: tuple[int, int], shifts: tuple[int, int], window: int
) -> jax.Array:
  """Returns what is added to the scores of shifted windows.

  Args:
    sides: The height and the width of the map, in tokens.
    shifts: By how many tokens it was rolled up and to the left.
    window: The side of a window, w.

  Returns:
    [n,w*w,w*w] f32, which is `_APART` for two tokens of which one was rolled to
    the other end of the map.
  """
  rolled = [
    np.arange(side) >= side - shift
    for side, shift in zip(sides, shifts, strict=True)
  ]
  regions = 2 * rolled[0][:, None] + rolled[1][None, :]
  ids = jnp.asarray(_windows(regions[None, :, :, None], window)[0, :, :, 0])
  return jnp.where(ids[:, :, None] == ids[:, None, :], 0.0, _APART)


class Attention(nn.Module):
  """Self-attention of several heads within windows.

  Attributes:
    heads: The number of heads, which divides the channels.
    window: The side of a window, in tokens.
    shifted: Whether the windows are shifted by half of their side, along the
      axes that more than one window covers.
    dtype: The dtype of the computation; scores and their softmax are float32.
  """

  heads: int
  window: int
  shifted: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N,H,W,C] for the tokens x [N,H,W,C]."""
    _, height, width, channels = x.shape
    window = self.window
    down, right = (-(-side // window) * window for side in (height, width))
    padding = ((0, 0), (0, down - height), (0, right - width), (0, 0))
    x = jnp.pad(x.astype(self.dtype), padding)
    half = window // 2 if self.shifted else 0
    up, left = (half if side > window else 0 for side in (down, right))
    x = _windows(jnp.roll(x, (-up, -left), axis=(1, 2)), window)
    qkv = layers.token_linear(3 * channels, self.dtype, 'qkv')(x)
    qkv = qkv.reshape(*x.shape[:3], 3, self.heads, channels // self.heads)
    query, key, value = (qkv[:, :, :, i] for i in range(3))
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = product('nwthd,nwshd->nwhts', query, key)
    scores = scores * query.shape[-1] ** -0.5 + self._bias()[None, None]
    if up or left:
      apart = _apart((down, right), (up, left), window)
      scores = scores + apart[None, :, None]
    shares = jax.nn.softmax(scores).astype(self.dtype)
    y = product('nwhts,nwshd->nwthd', shares, value).reshape(x.shape)
    y = layers.token_linear(channels, self.dtype, 'out')(y)
    y = _maps(y, window, down)
    y = jnp.roll(y, (up, left), axis=(1, 2))
    return y[:, :height, :width]

  def _bias(self) -> jax.Array:
    """Returns what the relative positions add to the scores, [h,w*w,w*w]."""
    tokens = self.window**2
    shape = ((2 * self.window - 1) ** 2, self.heads)
    table = self.param('positions', layers.token_init, shape)
    bias = table[position_index(self.window)]
    return bias.reshape(tokens, tokens, self.heads).transpose(2, 0, 1)


class Block(nn.Module):
  """A block of a transformer: attention within windows and an MLP, residual.

  Attributes:
    heads: See `Attention`.
    window: See `Attention`.
    shifted: See `Attention`.
    expansion: The factor of the channels within the MLP.
    drop_path: The rate of stochastic depth; see `layers.drop_path`.
    dtype: The dtype of the computation.
  """

  heads: int
  window: int
  shifted: bool
  expansion: int
  drop_path: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H,W,C] for the tokens x [N,H,W,C]."""
    drop = functools.partial(layers.drop_path, rate=self.drop_path, train=train)
    attention = Attention(
      self.heads, self.window, self.shifted, self.dtype, name='attention'
    )
    x = x + drop(attention(_norm('ln1')(x)))
    y = layers.mlp(_norm('ln2')(x), self.expansion, self.dtype)
    return x + drop(y)


class Swin(layers.Network):
  """A Swin transformer of the first version; see `layers.Network`.

  Blocks end without an activation, so that 'stage{i}_pre' equals 'stage{i}'.
  The last map is normalised before it is averaged: it is 'stage{i}_post' of the
  last stage.

  Attributes:
    stage_sizes: The number of blocks in every stage.
    heads: The number of heads in every stage, which divides its channels.
    embedding: The channels of the first stage; every later one has twice those
      of the stage before it, and half of the map's side.
    window: The side of a window, in tokens.
    patch: The side of the patches that the stem embeds, in pixels.
    expansion: The factor of the channels within a block's MLP.
    drop_path: The last block's rate of stochastic depth, to which it rises
      linearly from 0 in the first block.
  """

  native_size: ClassVar[int] = 224

  stage_sizes: tuple[int, ...] = (2, 2, 6, 2)
  heads: tuple[int, ...] = (3, 6, 12, 24)
  embedding: int = 96
  window: int = 7
  patch: int = 4
  expansion: int = 4
  drop_path: float = 0.0

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    if len(self.heads) != len(self.stage_sizes):
      raise errors.ArgumentError(
        f'heads={self.heads}: a Swin of {len(self.stage_sizes)} stages needs '
        f'{len(self.stage_sizes)}'
      )
    for i, heads in enumerate(self.heads):
      if self.embedding * 2**i % heads:
        raise errors.ArgumentError(
          f'heads={self.heads}: {heads} must divide the '
          f'{self.embedding * 2**i} channels of stage {i + 1} '
          f'(embedding={self.embedding})'
        )
    super().__post_init__()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3]."""
    embed = layers.torch_conv(
      self.embedding,
      self.patch,
      3 * self.patch**2,
      stride=self.patch,
      padding=0,
      dtype=self.dtype,
      name='stem_conv',
    )
    x = tap(self, 'stem', _norm('stem_ln')(embed(images)))
    rates = iter(layers.rates(self.drop_path, sum(self.stage_sizes)))
    plan = zip(self.stage_sizes, self.heads, strict=True)
    for i, (blocks, heads) in enumerate(plan, 1):
      if i > 1:
        x = self._merged(x, i)
      x = x.astype(self.dtype)
      for j in range(1, blocks + 1):
        x = Block(
          heads,
          self.window,
          j % 2 == 0,
          self.expansion,
          next(rates),
          self.dtype,
          name=f'stage{i}_block{j}',
        )(x, train=train)
      tap(self, f'stage{i}', tap(self, f'stage{i}_pre', x))
    last = f'stage{len(self.stage_sizes)}_post'
    x = tap(self, last, _norm('ln_map')(x))
    return self.classify(x, layers.token_init, nn.initializers.zeros)

  def _merged(self, x: jax.Array, stage: int) -> jax.Array:
    """Returns the map [N,ceil(H/2),ceil(W/2),2C] that a stage begins with.

    The four tokens of a square are joined column by column.

    Args:
      x: The map of the stage before it, [N,H,W,C].
      stage: The stage's number.
    """
    count, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    down, right = x.shape[1] // 2, x.shape[2] // 2
    x = x.reshape(count, down, 2, right, 2, channels)
    x = x.transpose(0, 1, 3, 4, 2, 5).reshape(count, down, right, 4 * channels)
    reduce = nn.Dense(
      2 * channels,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=layers.token_init,
      name=f'stage{stage}_reduce',
    )
    return reduce(_norm(f'stage{stage}_ln')(x))


NETWORKS: dict[str, Callable[..., Swin]] = {'swin_tiny': Swin}
