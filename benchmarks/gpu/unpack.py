"""Joins the data set that parcels hold: python unpack.py FILE.npz PARCEL...

It verifies all checksums. run.py then trains on the file by
`--data=npz:FILE.npz`.
"""

from collections.abc import Sequence
import os
import pathlib
import sys

import chunks
import coded
import numpy as np

from kd_jax.runtime import command


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Writes the .npz file and returns the exit code."""
  parser = command.parser('unpack.py', __doc__)
  parser.add_argument('file', type=pathlib.Path, help='the .npz to write')
  parser.add_argument('parcels', type=pathlib.Path, nargs='+')
  args = parser.parse_args(argv)
  files = {
    path.name: path
    for parcel in args.parcels
    for path in chunks.verified(parcel)
  }
  arrays = coded.read(files)
  part = args.file.with_name(f'{args.file.name}.part')
  with part.open('wb') as file:
    np.savez(file, **arrays)
  os.replace(part, args.file)
  for name, array in arrays.items():
    print(f'{name}: {array.dtype} {list(array.shape)}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
