"""Every command ends well where the backend tells nothing of programs."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import pytest

from kd_jax.benchmark import cost
from kd_jax.distill import build
from kd_jax.runtime import jaxprs
from tests import children
from tests.cli import silent_backend, train_test

COMMANDS = [
  'train',
  'evaluate',
  'export',
  'evaluate',
  'predict',
  'compare',
  'list',
  'benchmark',
  'benchmark',
]


def on_this_backend():
  """Parameters and FLOPs of the same networks where the backend tells all."""
  config = train_test.configuration('pics').get_config('digits')
  config.student.args.widths = (4, 4, 8, 16)
  config.teacher.name = 'resnet8'
  config.teacher.args.widths = (4, 8, 8, 16)
  return build.build(config).deployed


@pytest.mark.drill
def test_every_command_ends_with_0_and_the_same_figures(tmp_path):
  ended = children.run(
    [sys.executable, '-m', 'tests.cli.silent_backend', 'silent', str(tmp_path)],
    env=train_test.environment(KD_JAX_CACHE=str(tmp_path / 'cache')),
    cwd=train_test.ROOT,
  )
  said = ended.stdout + ended.stderr
  lines = [line for line in said.splitlines() if re.match(r'\["\w+", ', line)]
  assert [json.loads(line) for line in lines] == [[n, 0] for n in COMMANDS], (
    said
  )
  assert ended.returncode == 0
  kept = on_this_backend()
  result = json.loads((tmp_path / 'runs/seed1/result.json').read_text())
  assert (result['params'], result['flops']) == (kept.params, kept.flops)
  assert kept.flops > 1e5
  facts = json.loads((tmp_path / 'out/network.json').read_text())
  assert facts['parameters'] == kept.params
  (row,) = json.loads((tmp_path / 'times.json').read_text())['rows']
  assert row['flops'] > 8 * kept.flops
  assert row['memory_bytes'] is None
  assert 'this backend does not tell' in said


@pytest.mark.parametrize('kind', silent_backend.KINDS)
def test_what_a_backend_does_not_tell_of_a_step_is_none(kind, monkeypatch):
  traced = jax.jit(lambda x: x @ x).trace(jnp.ones((4, 4)))
  compiled = traced.lower().compile()
  silent_backend.install(kind, monkeypatch.setattr)
  assert cost.of(traced, compiled) == cost.Costs(
    flops=2 * 4**3,
    compiled_flops=None,
    compiled_bytes=None,
    memory_bytes=None,
    exchanged=None,
  )
  assert cost.device_peak() is None
  told = jaxprs.memory(jax.devices()[0]).keys()
  assert not told & {'bytes_limit', 'peak_bytes_in_use'}
