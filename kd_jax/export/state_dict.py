"""Export of a trained network's weights by the names of a PyTorch class."""

import pathlib

import numpy as np
from safetensors import numpy as safetensors_numpy

from kd_jax import errors, models
from kd_jax.export import artifact
from kd_jax.models.pretrained import convert

FILE = 'student.torch.safetensors'


def write(
  trained: artifact.Trained, folder: pathlib.Path, layout: str = ''
) -> str:
  """Writes `FILE`, which `safetensors.torch.load_file` reads as a state dict.

  Args:
    trained: The network.
    folder: The folder to write into.
    layout: Whose names the weights have; see `convert.state_dict`.

  Returns:
    The name of the layout, which says the class that reads the file.

  Raises:
    UsageError: The network predicts through a method, is not one of
      `kd_jax.models`, or has no such layout.
  """
  facts = trained.facts
  if len(facts['kept']) > 1:
    raise errors.UsageError(
      f'--torch: it predicts with {", ".join(facts["kept"])}, and no class of '
      'PyTorch is known that does; leave it out'
    )
  if ':' in facts['network']:
    raise errors.UsageError(
      f'--torch: {facts["network"]} is no network of kd_jax.models, so that '
      'its names in PyTorch are not known; leave it out'
    )
  args = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in facts['network_args'].items()
  }
  network = models.make(facts['network'], len(facts['class_names']), **args)
  variables = {
    tuple(path.split('/')[1:]): np.asarray(value)
    for path, value in trained.weights.items()
  }
  with errors.keys(layout='--layout'):
    arrays, name = convert.state_dict(network, variables, layout)
  content = safetensors_numpy.save(arrays, {'format': 'pt'})
  (folder / FILE).write_bytes(content)
  return name
