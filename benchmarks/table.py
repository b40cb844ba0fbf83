"""Makes the table of six methods beside PyTorch, by `kd_jax.benchmark`.

  python benchmarks/table.py figures
  python benchmarks/table.py figures --only=r32x4_r8x4_64

Each row is one run of `kd-jax benchmark --compare`, in which kd_jax and all
peers of one configuration take turns. The folder keeps the figures as JSON, and
a row whose file exists is not run again. The table is printed as Markdown.
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
# Title, recipe and arguments by name. The ResNets at 224 pixels train on few
# images, so that these fit on the device, as those of a CIFAR run do.
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
# Configurations whose label is not '<method>:<recipe>'.
OTHER = {
  'ffsd:cifar100_r32x4_r8x4': 'ffsd:cifar100_r8',
  'ffsd:imagenet_r34_r18': 'ffsd:imagenet_r18',
  'crd:imagenet_r34_r18': 'benchmarks/crd_few_images.py',
}


def main() -> None:
  """Runs the rows without a file, and prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--only', choices=TABLES, help='one of the tables')
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--peers', default=','.join(PEERS))
  parser.add_argument('--repeats', type=int, default=3)
  args = parser.parse_args()
  args.folder.mkdir(parents=True, exist_ok=True)
  for name in [args.only] if args.only else TABLES:
    title, recipe, arguments = TABLES[name]
    reports = []
    for method in args.methods.split(','):
      path = args.folder / f'{name}_{method}.json'
      label = f'{method}:{recipe}'
      label = OTHER.get(label, label)
      if not path.exists():
        options = (f'--peers={args.peers}', f'--repeats={args.repeats}')
        _run(label, [*arguments, *options], path)
      reports.append((method, json.loads(path.read_text(encoding='utf-8'))))
    print(
      f'\n**{title}**\n\n{_table(reports)}\n\n{_about(reports)}', flush=True
    )


def _run(label: str, given: Sequence[str], path: pathlib.Path) -> None:
  """Runs the benchmark of a configuration and writes its JSON to `path`."""
  command = [sys.executable, '-m', 'kd_jax', 'benchmark', label, '--compare']
  part = path.with_suffix('.part')
  subprocess.run([*command, *given, f'--json={part}'], check=True, stdout=2)
  part.rename(path)


def _table(found: Sequence[tuple[str, dict[str, Any]]]) -> str:
  head = ('', 'images/s', *PEERS, 'of the peak', 'memory', 'asked FLOPs')
  lines = [head, ('---', *('---:',) * (len(head) - 1))]
  for method, report in found:
    own_row, *peer_rows = report['rows']
    rows = {row['config'].split()[1].rstrip(','): row for row in peer_rows}
    speed, peak_share = own_row['images_per_s'], own_row['share']
    lines.append(
      (
        method.upper(),
        _number(speed['median'], speed['least'], speed['most'], '.3g'),
        *(_ratio(rows.get(name)) for name in PEERS),
        f'{100 * peak_share["median"]:.0f}%',
        f'{own_row["memory_bytes"] / 1e6:.0f} MB'
        if own_row['memory_bytes']
        else '',
        f'{own_row["flops"] / 1e9:.0f} G',
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
  """Returns a line on the hardware, the versions and the measured peak.

  It ends the command if two rows differ in hardware, host or versions.
  """
  first = found[0][1]
  for name, report in found:
    for key in ('hardware', 'host', 'versions'):
      if report[key] != first[key]:
        sys.exit(f'{name} has another {key} than {found[0][0]}: {report[key]}')
  versions = ', '.join(f'{k} {v}' for k, v in first['versions'].items())
  repeats = [report['arguments']['repeats'] for _, report in found]
  peaks = [
    1e-9 * report['rows'][0]['peak']['float32'][end]
    for _, report in found
    for end in ('least', 'most')
  ]
  return (
    f'n={min(repeats)} turns or more; {first["hardware"]} '
    f'({first["host"]}); {versions}; peak {min(peaks):.0f}-{max(peaks):.0f} '
    'GFLOP/s'
  )


if __name__ == '__main__':
  main()
