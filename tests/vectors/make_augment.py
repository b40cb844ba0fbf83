"""Writes augment.npz: what timm and torchvision make of images and labels.

  PYTHONPATH=. python tests/vectors/make_augment.py

It needs PyTorch, torchvision and timm; the tests read the file.
"""

import itertools
import pathlib

import numpy as np
from timm.data import mixup
import torch

FILE = pathlib.Path(__file__).with_name('augment.npz')


def boxes():
  """(side, ratio, centre, first, last) of timm's boxes along an axis."""
  rows = []
  for side, ratio in itertools.product((8, 31, 224), (0.05, 0.3, 0.62, 0.97)):
    for centre in (0, side // 3, side - 1):
      randint = np.random.randint
      np.random.randint = lambda low, high, size, at=centre: np.asarray(at)
      try:
        first, last, _, _ = mixup.rand_bbox((side, side), ratio)
      finally:
        np.random.randint = randint
      rows.append((side, ratio, centre, first, last))
  return np.asarray(rows, np.float64)


def main():
  label = np.array([0, 3, 1, 4])
  ratio, smoothing = 0.3, 0.1
  target = mixup.mixup_target(
    torch.from_numpy(label), 5, lam=ratio, smoothing=smoothing
  )
  np.savez_compressed(
    FILE,
    boxes=boxes(),
    label=label,
    target=target.numpy(),
    target_of=(ratio, smoothing),
  )


if __name__ == '__main__':
  main()
