"""What methods read from a network's parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import errors


def last_bn(params: dict[str, Any], stage: int) -> tuple[jax.Array, jax.Array]:
  """Scale and bias [C] of the BatchNorm behind the tap 'stage{stage}_pre'.

  Where blocks end in a BatchNorm it is the last of the stage's last block, and
  a shortcut's part of the map is ignored. Where they begin with one, as those
  of WideResNet and PyramidNet do, it is in the next stage's first block, or the
  network's last.

  Source: `get_bn_before_relu` of overhaul-distillation 76344a8 and of
  RepDistiller b84f547.

  Args:
    params: of a network that OFD is defined for.
    stage: counted from 1.

  Raises:
    UsageError: where the network has no such BatchNorm.
  """
  own = _blocks(params, stage)
  if not own:
    raise errors.UsageError(
      f'the teacher has no blocks of stage {stage} whose BatchNorm gives a '
      'margin; take a ResNet, WideResNet, PyramidNet, VGG or MobileNet, or '
      'fewer stages (config.method_args.stages)'
    )
  if 'bn_last' not in params:
    norm = _norms(own[-1])[-1]
  elif following := _blocks(params, stage + 1):
    # PyramidNet's bottleneck has no ReLU before its first convolution.
    norm = _norms(following[0])[1 if 'bn4' in following[0] else 0]
  else:
    norm = params['bn_last']
  return norm['scale'], norm['bias']


def _blocks(params: dict[str, Any], stage: int) -> list[dict[str, Any]]:
  prefix = f'stage{stage}_block'
  names = [name for name in params if name.startswith(prefix)]
  names.sort(key=lambda name: int(name.removeprefix(prefix)))
  return [params[name] for name in names]


def _norms(block: dict[str, Any]) -> list[dict[str, Any]]:
  return [block[name] for name in sorted(block) if name.startswith('bn')]


def head(params: dict[str, Any], pooled: jax.Array) -> jax.Array:
  """A network's classifier alone: pooled [N,C] to logits [N,K] f32.

  Args:
    params: of a network whose last layer is called 'fc'.
    pooled: what its 'pooled' tap would be.

  Raises:
    UsageError: where the network has no such layer, or one for other channels.
  """
  if 'fc' not in params:
    raise errors.UsageError(
      "the teacher has no layer 'fc' whose weights the student could reuse "
      f'(it has {", ".join(sorted(params))})'
    )
  kernel, bias = params['fc']['kernel'], params['fc']['bias']
  if kernel.shape[0] != pooled.shape[-1]:
    raise errors.UsageError(
      f"the teacher's classifier reads {kernel.shape[0]} channels, its tap has "
      f'{pooled.shape[-1]}: name the map that is pooled '
      "(config.method_args.taps; 'stage3_post' and the like)"
    )
  return pooled.astype(jnp.float32) @ kernel + bias[None, :]
