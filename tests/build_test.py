"""What a configuration becomes."""

import pytest

from kd_jax import build
from tests import main_test


@pytest.mark.parametrize(('name', 'adapters'), [('ofd', True), ('kd', False)])
def test_bn_group_size_reaches_networks_and_adapters(name, adapters):
  config = main_test.configuration(name).get_config('digits')
  config.bn_group_size = 8
  (phase,) = build.phases_of(config, {'num_classes': 10}, 1)
  networks = {**phase.exp.students, **phase.exp.teachers}
  assert {net.bn_group_size for net in networks.values()} == {8}
  assert getattr(phase.exp.method, 'bn_group_size', None) == (
    8 if adapters else None
  )
