"""The README's Python runs, and its tables name what there is."""

import pathlib
import re

import jax
import pytest

from kd_jax import config as config_lib
from kd_jax.methods import registry

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


@pytest.mark.parametrize('code', BLOCKS, ids=lambda c: c.splitlines()[0])
def test_a_block_of_python_runs_as_it_stands(code):
  # Examples promote ranks as users' code does.
  with jax.numpy_rank_promotion('allow'):
    exec(compile(code, 'README.md', 'exec'), {'__name__': 'readme'})


def test_the_table_of_methods_has_each_of_them_once():
  section = README.split('## Methods')[1].split('\n## ')[0]
  rows = re.findall(r'^\| `(\w+)` \|', section, re.MULTILINE)
  assert sorted(rows) == registry.names()
  for name in registry.names():
    assert config_lib.find(name)
