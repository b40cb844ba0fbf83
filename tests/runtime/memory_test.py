"""How much memory there is, as the machine says."""

import jax
import pytest

from kd_jax.runtime import memory


def test_a_cpu_has_no_more_than_the_machine():
  there = memory.of_device(jax.local_devices()[0])
  assert there is None or 2**20 < there < 2**60


@pytest.mark.parametrize(
  ('own', 'files', 'want'),
  [
    ('0::/a/b', {'a/memory.max': '500', 'a/b/memory.max': 'max'}, [500]),
    ('0::/a/b', {'a/memory.max': '500', 'a/b/memory.max': '400'}, [400, 500]),
    # In a container the path is that of outside.
    ('0::/out/side', {'memory.max': '300'}, [300]),
    ('4:memory:/x', {'memory/x/memory.limit_in_bytes': '200'}, [200]),
    ('3:cpu:/x', {'cpu/x/memory.limit_in_bytes': '200'}, []),
    ('0::/', {}, []),
  ],
)
def test_the_limits_of_control_groups_are_read(tmp_path, own, files, want):
  (tmp_path / 'own').write_text(f'{own}\n')
  groups = tmp_path / 'groups'
  for name, text in files.items():
    (groups / name).parent.mkdir(parents=True, exist_ok=True)
    (groups / name).write_text(f'{text}\n')
  found = memory._of_groups(groups, tmp_path / 'own')
  assert sorted(found) == want
