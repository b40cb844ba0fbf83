"""Compares our networks with files that make_networks.py wrote.

  python -m tests.vectors.compare_networks FOLDER

prints a line for each file: parameters there and here, and the largest
difference of a tap relative to the tap's largest entry.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from kd_jax import models
from kd_jax.models.pretrained import convert
from tests.vectors import make_networks


def load(path):
  """The arrays of a file, and its description."""
  with np.load(path, allow_pickle=False) as file:
    arrays = {key: file[key] for key in file.files}
  return arrays, json.loads(str(arrays.pop('meta')))


def network(meta):
  """Our network of a file's description."""
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in meta['args'].items()
  }
  return models.make(meta['network'], meta['num_classes'], **args)


def state(meta):
  """The original's state dict."""
  return {
    name: make_networks.generated(name, tuple(shape))
    if shape or not name.endswith('num_batches_tracked')
    else np.zeros((), np.int64)
    for name, shape in meta['state']
  }


def parameters(variables):
  """How many parameters there are."""
  return sum(np.size(leaf) for leaf in jax.tree.leaves(variables['params']))


def differences(arrays, meta, variables):
  """The largest relative difference of each tap, over all batches.

  Raises:
    AssertionError: where the taps or their shapes are others.
  """
  apply = jax.jit(
    lambda variables, images: network(meta).apply(
      variables, images, train=False, mutable=['intermediates']
    )[1]['intermediates']
  )
  found = {}
  for shape in meta['shapes']:
    size = 'x'.join(map(str, shape))
    taps = apply(variables, make_networks.images(tuple(shape)))
    wanted = {key.split('/')[1] for key in arrays if key.startswith(size)}
    assert set(taps) == wanted, set(taps) ^ wanted
    for tap, value in taps.items():
      key = f'{size}/{tap}'
      assert value.shape == tuple(arrays[key + '/shape']), (key, value.shape)
      kept, norm = make_networks.sample(value)
      most = np.abs(arrays[key]).max()
      apart = np.abs(kept - arrays[key]).max() / most
      by_norm = abs(norm / arrays[key + '/norm'] - 1)
      found[tap] = max(found.get(tap, 0.0), float(apart), float(by_norm))
  return found


def main(folder):
  """Prints the table."""
  print('| file | network | parameters there | here | largest difference |')
  print('|---|---|---|---|---|')
  for path in sorted(pathlib.Path(folder).glob('*.npz')):
    arrays, meta = load(path)
    variables = convert.convert(network(meta), state(meta))
    found = differences(arrays, meta, variables)
    tap = max(found, key=found.get)
    print(
      f'| {path.stem} | {meta["network"]} | {meta["params"]:,} '
      f'| {parameters(variables):,} | {found[tap]:.1e} ({tap}) |',
      flush=True,
    )


if __name__ == '__main__':
  main(sys.argv[1])
