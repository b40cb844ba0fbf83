"""Compares kd_jax's networks with files that make_networks.py wrote.

  python -m tests.vectors.compare_networks FOLDER

prints a line for each file: the parameters of the original and of kd_jax, and
the largest difference of a tap, relative to the tap's largest entry.
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
  """Returns the arrays of a file, and its description."""
  with np.load(path, allow_pickle=False) as file:
    arrays = {key: file[key] for key in file.files}
  return arrays, json.loads(str(arrays.pop('meta')))


def network(meta):
  """Returns kd_jax's network for a file's description."""
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in meta['args'].items()
  }
  return models.make(meta['network'], meta['num_classes'], **args)


def state(meta):
  """Returns the state dict of the original network."""

  def value(name, shape, *whole):
    if whole or name.endswith('num_batches_tracked'):
      return np.reshape(np.array(whole or 0, np.int64), shape)
    return make_networks.generated(name, tuple(shape))

  return {entry[0]: value(*entry) for entry in meta['state']}


def parameters(variables):
  """Returns the number of parameters."""
  return sum(np.size(leaf) for leaf in jax.tree.leaves(variables['params']))


def differences(arrays, meta, variables):
  """Returns the largest relative difference of each tap, over all batches.

  Args:
    arrays: The arrays of a file.
    meta: Its description.
    variables: The variables of kd_jax's network.

  Raises:
    AssertionError: The taps or their shapes differ.
  """
  apply = jax.jit(
    lambda variables, images: network(meta).apply(
      variables, images, train=False, mutable=['intermediates']
    )[1]['intermediates']
  )
  largest = {}
  for shape in meta['shapes']:
    size = 'x'.join(map(str, shape))
    taps = apply(variables, make_networks.images(tuple(shape)))
    expected = {key.split('/')[1] for key in arrays if key.startswith(size)}
    assert set(taps) == expected, set(taps) ^ expected
    for tap, value in taps.items():
      key = f'{size}/{tap}'
      assert value.shape == tuple(arrays[key + '/shape']), (key, value.shape)
      entries, norm = make_networks.sample(value)
      scale = np.abs(arrays[key]).max()
      by_entry = np.abs(entries - arrays[key]).max() / scale
      by_norm = abs(norm / arrays[key + '/norm'] - 1)
      largest[tap] = max(largest.get(tap, 0.0), float(by_entry), float(by_norm))
  return largest


def main(folder):
  """Prints the table."""
  print('| file | network | parameters there | here | largest difference |')
  print('|---|---|---|---|---|')
  for path in sorted(pathlib.Path(folder).glob('*.npz')):
    arrays, meta = load(path)
    variables = convert.convert(network(meta), state(meta))
    by_tap = differences(arrays, meta, variables)
    tap = max(by_tap, key=by_tap.get)
    print(
      f'| {path.stem} | {meta["network"]} | {meta["params"]:,} '
      f'| {parameters(variables):,} | {by_tap[tap]:.1e} ({tap}) |',
      flush=True,
    )


if __name__ == '__main__':
  main(sys.argv[1])
