"""Packs what a GPU machine without a network lacks: python pack.py OUT

Writes folders OUT/parcel1, OUT/parcel2, ... of a limited size, each with its
SHA256SUMS. They hold the checkout as it is committed, the Python packages that
the machine lacks, and with --data=FILE.npz the arrays of that file in blocks.
"""

import argparse
from collections.abc import Sequence
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib

import chunks
import coded

from kd_jax import errors
from kd_jax.runtime import command

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 2**20
_SUMS = 64 * 1024  # bytes that a parcel reserves for its SHA256SUMS

# Packages that a machine with JAX and PyTorch for GPUs has. All others that
# kd_jax needs are packed, even if the machine may have another version.
HAS = (
  'aiohappyeyeballs', 'aiohttp', 'aiosignal', 'attrs', 'certifi',
  'charset-normalizer', 'contourpy', 'cycler', 'einops', 'flatbuffers',
  'fonttools', 'frozenlist', 'fsspec', 'idna', 'jax', 'jaxlib', 'joblib',
  'kiwisolver', 'markdown-it-py', 'matplotlib', 'mdurl', 'ml-dtypes',
  'multidict', 'narwhals', 'numpy', 'opt-einsum', 'packaging', 'pandas',
  'pillow', 'pip', 'prometheus-client', 'propcache', 'psutil', 'pyarrow',
  'pygments', 'pyparsing', 'python-dateutil', 'pyyaml', 'requests', 'rich',
  'safetensors', 'scikit-learn', 'scipy', 'setuptools', 'simplejson', 'six',
  'tensorstore', 'threadpoolctl', 'tqdm', 'typing-extensions', 'tzdata',
  'urllib3', 'uvloop', 'wheel', 'wrapt', 'yarl', 'zipp',
)  # fmt: skip


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Writes the parcels and returns the exit code."""
  args = _parser().parse_args(argv)
  if args.max_mb < 1:
    raise errors.UsageError(
      f'--max_mb={args.max_mb} is too little: give at least 1'
    )
  if args.out.exists() and any(args.out.iterdir()):
    raise errors.UsageError(f'{args.out} holds files: give a new folder')
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    python = _python(args.python)
    data = coded.write(args.data, folder) if args.data else []
    files = [_checkout(folder), _site(folder, args, python), *data]
    parcels = distribute(files, args.max_mb * MIB)
    for number, contents in enumerate(parcels, 1):
      parcel = args.out / f'parcel{number}'
      parcel.mkdir(parents=True)
      for path in contents:
        shutil.move(path, parcel)
      chunks.write_sums(parcel, [path.name for path in contents])
      size = sum(path.stat().st_size for path in parcel.iterdir())
      names = ' '.join(path.name for path in contents)
      print(f'{parcel}: {size / MIB:.1f} MiB: {names}')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('pack.py', __doc__)
  add = parser.add_argument
  add('out', type=pathlib.Path, help='a new folder for the parcels')
  add(
    '--python', default='3.12', help="the machine's version, or a path to one"
  )
  add('--jax', default='0.11.2', help="the machine's version")
  add('--max_mb', type=int, default=64, help='MiB of a parcel, at most')
  add('--data', type=pathlib.Path, help='an .npz file to pack too')
  add('--has', default='', help='more packages that the machine has: a,b,c')
  return parser


def distribute(
  files: Sequence[pathlib.Path], most: int
) -> list[list[pathlib.Path]]:
  """Puts each file into the first parcel with room for it.

  Args:
    files: The files, in the order in which they are needed.
    most: The maximum size of a parcel, in bytes.

  Returns:
    The files of each parcel.

  Raises:
    UsageError: A file is larger than a parcel.
  """
  room = most - _SUMS
  parcels: list[list[pathlib.Path]] = []
  free: list[int] = []
  for path in files:
    size = path.stat().st_size
    if size > room:
      raise errors.UsageError(
        f'{path.name} takes {size / MIB:.1f} MiB and a parcel holds '
        f'{room / MIB:.1f}: give a larger --max_mb, or name packages that the '
        'machine has by --has'
      )
    number = next((i for i, left in enumerate(free) if left >= size), len(free))
    if number == len(free):
      parcels.append([])
      free.append(room)
    parcels[number].append(path)
    free[number] -= size
  return parcels


def _checkout(folder: pathlib.Path) -> pathlib.Path:
  """Writes the committed files as checkout.tar, with the commit in COMMIT."""
  path, commit = folder / 'checkout.tar', folder / 'COMMIT'
  git = ['git', '-C', str(ROOT)]
  commit.write_text(_called([*git, 'rev-parse', 'HEAD']), encoding='utf-8')
  _called([*git, 'archive', f'--output={path}', f'--add-file={commit}', 'HEAD'])
  if _called([*git, 'status', '--porcelain']):
    print('what is not committed in this checkout is not packed')
  return path


def _python(version: str) -> str:
  """Returns the path of a Python, for its version or its path."""
  python = shutil.which(f'python{version}') or shutil.which(version)
  if not python:
    raise errors.UsageError(
      f'--python={version}: there is no python{version} on the PATH; '
      'install it, or give the path of one'
    )
  return python


def _site(
  folder: pathlib.Path, args: argparse.Namespace, python: str
) -> pathlib.Path:
  """Writes the packages as site.tar.xz, for this machine's processor."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))
  needs = [f'jax=={args.jax}', *project['project']['dependencies']]
  venv = folder / 'venv'
  _called([python, '-m', 'venv', str(venv)])
  pip = [str(venv / 'bin' / 'python'), '-m', 'pip', 'install', '--quiet']
  _called([*pip, *needs])
  path = folder / 'site.tar.xz'
  has = {plain(name) for name in (*HAS, *args.has.split(',')) if name}
  site = next((venv / 'lib').glob('python3*')) / 'site-packages'
  print(f'packages: {" ".join(write_site(site, path, has))}')
  shutil.rmtree(venv)
  return path


def _called(arguments: Sequence[str]) -> str:
  """Runs a command and returns what it prints.

  Raises:
    UsageError: The command fails; the message has the last line that it wrote.
  """
  done = subprocess.run(arguments, capture_output=True, text=True, check=False)
  if done.returncode:
    last_line = (done.stderr.strip() or 'it said nothing').splitlines()[-1]
    raise errors.UsageError(
      f'{" ".join(arguments[:4])} ... failed: {last_line}'
    )
  return done.stdout


def plain(name: str) -> str:
  """Returns a package's name in the form in which registries compare names."""
  return re.sub(r'[-_.]+', '-', name).lower()


def write_site(
  site: pathlib.Path, path: pathlib.Path, has: set[str]
) -> list[str]:
  """Packs installed packages.

  Args:
    site: The folder in which they are installed.
    path: The .tar.xz file to write.
    has: The packages to leave out, as `plain` names them.

  Returns:
    The names of the packed packages, each with its version.
  """
  packed = []
  with tarfile.open(path, 'w:xz', preset=6) as tar:
    added: set[str] = set()
    for dist_info in sorted(site.glob('*.dist-info')):
      name, _, version = dist_info.name.removesuffix('.dist-info').rpartition(
        '-'
      )
      if plain(name) in has:
        continue
      packed.append(f'{plain(name)}-{version}')
      record = (dist_info / 'RECORD').read_text(encoding='utf-8').splitlines()
      paths = [line.rsplit(',', 2)[0] for line in record]
      entries = {
        recorded.split('/')[0] for recorded in paths if recorded[0] not in './'
      }
      for entry in sorted(entries - added - {'__pycache__'}):
        added.add(entry)
        tar.add(site / entry, entry, filter=_needed)
  return packed


def _needed(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
  """Leaves out tests, bytecode and the fixtures of tensorflow-datasets."""
  name = info.name
  code = info.isdir() or name.endswith(('.py', '.toml'))
  fixture = name.startswith('tensorflow_datasets/') and not code
  if '__pycache__' in name or name.endswith('_test.py') or fixture:
    return None
  return info


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
