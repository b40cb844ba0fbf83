"""Which exports have a file of PyTorch weights."""

from flax import traverse_util
import numpy as np
import pytest
from safetensors import numpy as safetensors

from kd_jax import errors, models
from kd_jax.export import artifact, state_dict
from kd_jax.models.pretrained import convert

ARGS = {'widths': [4, 4, 8, 16]}


def trained(*kept):
  """A resnet8 that was deployed by the groups that are kept."""
  network = models.make('resnet8', 10, widths=tuple(ARGS['widths']))
  shapes = traverse_util.flatten_dict(convert.shapes(network), sep='/')
  weights = {f'student/{k}': np.ones(x.shape) for k, x in shapes.items()}
  facts = {
    'network': 'resnet8', 'network_args': ARGS, 'kept': list(kept),
    'class_names': list('abcdefghij'),
  }  # fmt: skip
  return artifact.Trained(weights, lambda weights, images: images, facts)


def test_the_deployed_one_of_several_students_has_a_file(tmp_path):
  layout = state_dict.write(trained('student_0'), tmp_path)
  assert layout.startswith('RepDistiller')
  written = safetensors.load_file(tmp_path / state_dict.FILE)
  assert written['conv1.weight'].shape == (4, 3, 3, 3)


def test_a_prediction_by_a_method_has_none(tmp_path):
  with pytest.raises(errors.UsageError, match='predicts with student, method'):
    state_dict.write(trained('student', 'method'), tmp_path)
  assert not [*tmp_path.iterdir()]
