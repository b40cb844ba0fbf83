"""What a run needs of a device's memory."""

import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.distill import augmented, build, memory
from kd_jax.runtime import memory as there


@pytest.fixture(scope='module')
def config():
  config = config_lib.digits()
  config.student.args.widths = (4, 4, 8, 8)
  config.teacher = config_lib.default().teacher
  return config


@pytest.fixture(scope='module')
def parts(config):
  return build.build(config)


def has(monkeypatch, count):
  monkeypatch.setattr(there, 'of_device', lambda device: count)


def test_parameters_and_optimizer_that_do_not_fit_are_refused_with_both(
  parts, monkeypatch
):
  devices = parts.mesh.size
  # SGD's momentum has the size of the parameters.
  floor = 2 * 4 * parts.deployed.params
  has(monkeypatch, floor * devices)
  with pytest.raises(
    errors.UsageError, match=r'take \S+ kB, and .* has \S+ kB'
  ):
    memory.check(parts.traced, parts.mesh)
  for count in (2 * floor * devices, None):
    has(monkeypatch, count)
    memory.check(parts.traced, parts.mesh)


def test_what_is_an_estimate_is_a_line_of_the_opening(
  config, parts, monkeypatch
):
  images = augmented.resident_bytes(config, parts.source.info)
  assert images == (300 + parts.source.info.num_test) * 8 * 8 * 3
  has(monkeypatch, 2**40)
  assert not memory.note(parts, images, 1)
  has(monkeypatch, (images + 16 * parts.deployed.params) * parts.mesh.size)
  line = memory.note(parts, images, 1)
  assert line.startswith('about ')
  assert 'config.batch_size' in line
  # A batch in parts takes less.
  assert memory.note(parts, images, 10**6) == ''


def test_an_evaluation_takes_no_more_images_than_there_are(config, parts):
  assert build.eval_batch_size(config, parts) == config.eval_batch_size
  large = config.copy_and_resolve_references()
  large.eval_batch_size = 10**9
  size = build.eval_batch_size(large, parts)
  count = parts.source.info.num_test
  assert count <= size < count + parts.mesh.size
