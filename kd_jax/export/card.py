"""The model card of an export: README.md, from the facts of network.json alone.

Its head is the YAML that Hugging Face reads. What the facts do not say is said
to be unknown. Names from outside are shown as `errors.shown` does, as code.
"""

from collections.abc import Collection
import pathlib
import re
from typing import Any

from kd_jax import errors, tasks
from kd_jax.export import artifact

FILE = 'README.md'
UNKNOWN = 'unknown'
_CLASSES = 20  # the most classes that are listed
# The names of the tasks at Hugging Face.
_PIPELINES = {
  'classification': 'image-classification',
  'segmentation': 'image-segmentation',
  'detection': 'object-detection',
}
_ONNX = """
```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession('student.onnx')
(logits,) = session.run(None, {'images': images})  # [N,H,W,3] u8, RGB
```
"""
_TENSORFLOW = """
```python
import tensorflow as tf
network = tf.saved_model.load('saved_model')
logits = network.serve(images)  # [N,H,W,3] u8, RGB
```
"""
_TORCH = """
```python
from safetensors.torch import load_file
network.load_state_dict(load_file('student.torch.safetensors'))
network.eval()  # of images [N,3,H,W] f32, normalised as said above
```
"""


def check_license(name: str) -> None:
  """Raises UsageError if a license is no identifier, such as 'apache-2.0'."""
  if not re.fullmatch(r'[a-z0-9][a-z0-9.+-]{0,63}', name):
    raise errors.ArgumentError(
      f'license={name!r}: give an identifier in small letters, such as '
      "'apache-2.0' or 'cc-by-4.0'"
    )


def write(
  facts: dict[str, Any],
  folder: pathlib.Path,
  licensed: str = UNKNOWN,
  layout: str = '',
) -> None:
  """Writes the model card of an export.

  Args:
    facts: The facts of network.json.
    folder: The folder of the export, with its other files.
    licensed: The identifier of the license.
    layout: The name of the layout of the PyTorch weights, if there are any.

  Raises:
    UsageError: `licensed` is no identifier.
  """
  files = {path.name for path in folder.iterdir()}
  text = content(facts, files, licensed, layout)
  (folder / FILE).write_text(text, encoding='utf-8')


def content(
  facts: dict[str, Any],
  files: Collection[str],
  licensed: str = UNKNOWN,
  layout: str = '',
) -> str:
  """Returns the text of a model card; see `write`.

  Args:
    facts: The facts of network.json.
    files: The names of the export's files.
    licensed: The identifier of the license.
    layout: The name of the layout of the PyTorch weights, if there are any.

  Raises:
    UsageError: `licensed` is no identifier.
  """
  check_license(licensed)
  name, task = _code(facts['network']), facts.get('task', 'classification')
  rows = '\n'.join(f'| {key} | {value} |' for key, value in _rows(facts))
  head = (
    f'---\nlicense: "{licensed}"\nlibrary_name: "kd_jax"\n'
    f'pipeline_tag: "{_PIPELINES[task]}"\n'
    'tags: ["jax", "knowledge-distillation"]\n---\n'
  )
  return (
    f'{head}\n# {name}\n\nAn image model that kd_jax trained and exported.\n\n'
    f'| | |\n|---|---|\n{rows}\n| license | {licensed} |\n\n'
    f'## Use\n\n{_uses(facts, files, layout)}'
  )


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns what is known of a network, each with its name."""
  data, result = facts.get('data', {}), facts.get('result', {})
  size, classes = facts['image_size'], facts['class_names']
  listed = ', '.join(map(_code, classes[:_CLASSES]))
  if more := len(classes) - _CLASSES:
    listed += f' and {more} more, in network.json' if more > 0 else ''
  arguments = ', '.join(
    _code(f'{key}={value}') for key, value in facts['network_args'].items()
  )
  return [
    ('network', _code(facts['network'])),
    ('its arguments', arguments or 'the defaults'),
    ('parameters', _known(facts.get('parameters'))),
    ('FLOPs of an image', _known(facts.get('flops'))),
    ('computes in', _known(facts.get('dtype'))),
    ('method', _known(result.get('method'))),
    ('teacher', _teachers(facts)),
    *([('weights', _averaged(result['ema']))] if 'ema' in result else []),
    ('data', _known(_public(data.get('name', '')))),
    ('fingerprint of the data', _known(data.get('fingerprint'))),
    ('training images', _known(result.get('train_images'))),
    ('epochs', _known(result.get('epochs'))),
    ('seed', _known(result.get('seed'))),
    ('accuracy', _accuracy(facts)),
    ('protocol', _known(result.get('protocol'))),
    ('input', f'[N,{size},{size},3] uint8, RGB; normalisation is inside'),
    ('mean of pixels in 0..1', _known(facts.get('mean'))),
    ('standard deviation', _known(facts.get('std'))),
    ('classes', f'{len(classes)}: {listed}'),
    ('kd_jax', _known(facts.get('kd_jax'))),
    ('commit', _known(result.get('commit'))),
  ]


def _teachers(facts: dict[str, Any]) -> str:
  """Returns the networks that taught it."""
  names = facts.get('teachers', {}).values()
  known = [_code(name) for name in (facts.get('teacher'), *names) if name]
  return ', '.join(known) or 'none'


def _averaged(decay: float) -> str:
  """Returns what weights are that were averaged."""
  return f'the moving average of those that were trained, decay {decay}'


def _accuracy(facts: dict[str, Any]) -> str:
  """Returns the accuracy, with the images that it was measured on."""
  accuracy = facts.get('accuracy', {})
  metric = tasks.find(facts.get('task', 'classification')).headline
  if metric.name not in accuracy:
    return UNKNOWN
  said = f'{metric.text} {accuracy[metric.name]:.2f}%'
  if 'correct' in accuracy:
    said += f', {accuracy["correct"]} of {accuracy["images"]} correct'
  else:
    said += f', n = {accuracy["images"]}'
  return f'{said}, on {_code(accuracy["data"])} {_code(accuracy["split"])}'


def _uses(facts: dict[str, Any], files: Collection[str], layout: str) -> str:
  """Returns how the files of an export are used, three lines each."""
  test = artifact.TEST if artifact.TEST in files else 'image.png'
  text = (
    'By itself, with jax, numpy, safetensors, flatbuffers and pillow:\n\n'
    f'```bash\npip install jax numpy safetensors flatbuffers pillow\n'
    f'python predict.py {test}\n```\n\n'
    'With kd_jax, in the folder of this file:\n\n'
    "```python\nimport kd_jax\ntrained = kd_jax.load('.')\n"
    'outputs = trained.forward(trained.weights, images)  # [N,H,W,3] u8, RGB\n'
    '```\n'
  )
  if 'student.onnx' in files:
    text += f'\nWith onnxruntime:\n{_ONNX}'
  if 'saved_model' in files:
    text += f'\nWith TensorFlow; student.tflite takes the same:\n{_TENSORFLOW}'
  if layout:
    text += f'\nWith PyTorch, in a `network` of {layout}:\n{_TORCH}'
  return text


def _public(name: str) -> str:
  """Returns the name of data without the folders of the machine."""
  kind, colon, place = name.partition(':')
  return f'{kind}{colon}{pathlib.PurePath(place).name}'


def _known(value: Any) -> str:
  return UNKNOWN if value is None or value == '' else _code(value)


def _code(value: Any) -> str:
  """Returns a value as code in a cell of a table."""
  said = errors.shown(value).replace('`', "'").replace('|', '\\|')
  return f'`{said}`'
