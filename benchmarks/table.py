"""The table of six methods beside PyTorch, made by `kd_jax.benchmark`.

  python benchmarks/table.py figures
  python benchmarks/table.py figures --only=r32x4_r8x4_64

Each row is one run of `kd-jax benchmark --compare`, in which ours and
all peers of one configuration take turns. Its figures are kept in the folder as
JSON; rows that are there are not run again. The table is printed as Markdown.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import subprocess
import sys
from typing import Any

PEERS = ('dataloader', 'eager', 'compiled', 'bfloat16')
METHODS = ('kd', 'fpd', 'ofd', 'ffsd', 'pics', 'crd')
CIFAR = ('--student=resnet8x4', '--teacher=resnet32x4')
# Title, recipe and arguments by name. ResNets at 224 pixels are trained on few
# images, which live on the device as those of a CIFAR run do.
TABLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
  'r32x4_r8x4_64': (
    'resnet32x4 to resnet8x4, 32 pixels, batch 64',
    'cifar100_r32x4_r8x4',
    ('--batch_size=64', *CIFAR),
  ),
  'r34_r18_16': (
    'ResNet34 to ResNet18, 224 pixels, 1000 classes, batch 16',
    'imagenet_r34_r18',
    ('--batch_size=16', '--image_size=224', '--classes=1000', '--images=2000'),
  ),
  'r32x4_r8x4_512': (
    'resnet32x4 to resnet8x4, 32 pixels, batch 512',
    'cifar100_r32x4_r8x4',
    ('--batch_size=512', *CIFAR),
  ),
}
# Configurations that are called otherwise.
OTHER = {
  'ffsd:cifar100_r32x4_r8x4': 'ffsd:cifar100_r8',
  'ffsd:imagenet_r34_r18': 'ffsd:imagenet_r18',
  'crd:imagenet_r34_r18': 'benchmarks/crd_few_images.py',
}


def main() -> None:
  """Runs what is missing and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--only', choices=TABLES, help='one of the tables')
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--peers', default=','.join(PEERS))
  parser.add_argument('--repeats', type=int, default=3)
  args = parser.parse_args()
  args.folder.mkdir(parents=True, exist_ok=True)
  for name in [args.only] if args.only else TABLES:
    title, recipe, given = TABLES[name]
    found = []
    for method in args.methods.split(','):
      path = args.folder / f'{name}_{method}.json'
      label = f'{method}:{recipe}'
      label = OTHER.get(label, label)
      if not path.exists():
        chosen = (f'--peers={args.peers}', f'--repeats={args.repeats}')
        _run(label, [*given, *chosen], path)
      found.append((method, json.loads(path.read_text(encoding='utf-8'))))
    print(f'\n**{title}**\n\n{_table(found)}\n\n{_about(found)}', flush=True)


def _run(label: str, given: Sequence[str], path: pathlib.Path) -> None:
  """One run of the benchmark, into `path`."""
  command = [sys.executable, '-m', 'kd_jax', 'benchmark', label, '--compare']
  part = path.with_suffix('.part')
  subprocess.run([*command, *given, f'--json={part}'], check=True, stdout=2)
  part.rename(path)


def _table(found: Sequence[tuple[str, dict[str, Any]]]) -> str:
  head = ('', 'images/s', *PEERS, 'of the peak', 'memory', 'asked FLOPs')
  lines = [head, ('---', *('---:',) * (len(head) - 1))]
  for method, each in found:
    ours, *others = each['rows']
    rows = {row['config'].split()[1].rstrip(','): row for row in others}
    speed, share = ours['images_per_s'], ours['share']
    lines.append(
      (
        method.upper(),
        _number(speed['median'], speed['least'], speed['most'], '.3g'),
        *(_ratio(rows.get(name)) for name in PEERS),
        f'{100 * share["median"]:.0f}%',
        f'{ours["memory_bytes"] / 1e6:.0f} MB' if ours['memory_bytes'] else '',
        f'{ours["flops"] / 1e9:.0f} G',
      )
    )
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _ratio(row: dict[str, Any] | None) -> str:
  if row is None:
    return 'left out'
  return _number(row['ratio'], row['least'], row['most'], '.2f')


def _number(median: float, least: float, most: float, form: str) -> str:
  return f'{median:{form}} ({least:{form}}-{most:{form}})'


def _about(found: Sequence[tuple[str, dict[str, Any]]]) -> str:
  """On what, with what, and what the peak was."""
  first = found[0][1]
  for name, each in found:
    for key in ('hardware', 'host', 'versions'):
      if each[key] != first[key]:
        sys.exit(f'{name} has another {key} than {found[0][0]}: {each[key]}')
  versions = ', '.join(f'{k} {v}' for k, v in first['versions'].items())
  repeats = [each['arguments']['repeats'] for _, each in found]
  peaks = [
    1e-9 * each['rows'][0]['peak']['float32'][end]
    for _, each in found
    for end in ('least', 'most')
  ]
  return (
    f'n={min(repeats)} turns or more; {first["hardware"]} '
    f'({first["host"]}); {versions}; peak {min(peaks):.0f}-{max(peaks):.0f} '
    'GFLOP/s'
  )


if __name__ == '__main__':
  main()
