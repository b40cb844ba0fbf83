"""What the tables of PyTorch's names share; see `layouts`."""

from collections.abc import Callable, Iterator

Rules = list[tuple[str, Callable[..., str]]]

BLOCK = r'stage(\d+)_block(\d+)/'


def same(name: str) -> str:
  """Returns the name itself."""
  return name


def places(
  stages: tuple[tuple[tuple[int, ...], ...], ...],
) -> Iterator[tuple[tuple[int, int], tuple[int, int, int]]]:
  """Yields the indices by which the PyTorch implementations name a block.

  Args:
    stages: See `mobilenet.MobileNetV2`.

  Yields:
    The stage and the block's number in it, from 1; and the block's row, its
    place in the row, and its position among all blocks, from 0.
  """
  row = position = 0
  for i, rows in enumerate(stages, 1):
    number = 0
    for _, _, blocks, *_ in rows:
      for place in range(blocks):
        number += 1
        yield (i, number), (row, place, position)
        position += 1
      row += 1
