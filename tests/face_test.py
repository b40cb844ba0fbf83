"""What `import kd_jax` offers."""

import functools
import sys

import jax
import numpy as np
import optax
import pytest

import kd_jax
from tests import children, tiny


@pytest.mark.parametrize('name', kd_jax.__all__)
def test_a_public_name_is_there(name):
  assert getattr(kd_jax, name) is not None
  assert name in dir(kd_jax)


def test_the_table_of_names_is_whole():
  assert sorted({*kd_jax._ROOMS, *kd_jax._NAMES}) == kd_jax.__all__
  with pytest.raises(AttributeError, match='no attribute'):
    _ = kd_jax.trian


def test_import_alone_does_not_start_jax():
  code = 'import kd_jax, sys; assert "jax" not in sys.modules; kd_jax.losses.kl'
  assert children.run([sys.executable, '-c', code]).returncode == 0


def test_a_step_of_ones_own_loop():
  student, teacher = (kd_jax.models.make('resnet8', 10) for _ in range(2))
  method = kd_jax.methods.make('kd')
  exp = kd_jax.Experiment(
    students={'student': student},
    teachers={'teacher': teacher},
    method=method,
    weights={name: lambda step: 1.0 for name in method.terms},
    tx=optax.sgd(0.1),
  )
  batch = tiny.batch()
  frozen = {
    'teacher': teacher.init(jax.random.key(1), batch['image'], train=False)
  }
  state = kd_jax.init(exp, np.int32(0), frozen, batch)
  train_step = jax.jit(functools.partial(kd_jax.train_step, exp))
  new, terms = train_step(np.int32(0), state, frozen, batch)
  assert int(new.step) == 1
  assert np.isfinite(terms['total'])


def test_a_gpu_that_would_not_be_deterministic_is_refused(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  config = kd_jax.config.digits()
  config.deterministic = True
  monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_autotune_level=0')
  with pytest.raises(kd_jax.errors.UsageError, match='deterministic_ops=true'):
    kd_jax.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_run_from_a_program(tmp_path):
  config = kd_jax.config.digits()
  config.method, config.weights = 'ce', {'ce': 1.0}
  config.teacher = kd_jax.config.default().teacher
  config.student.args.widths = (4, 4, 8, 16)
  config.epochs, config.baseline = 1, 'off'
  result = kd_jax.train(config, tmp_path / 'run')
  figures = kd_jax.evaluate(tmp_path / 'run')
  assert figures['top1'] == pytest.approx(result['top1'])
  trained = kd_jax.load(tmp_path / 'run')
  assert trained.facts['network'] == 'resnet8'
  with pytest.raises(kd_jax.UsageError, match="did you mean 'test'"):
    kd_jax.evaluate(trained, split='tests')
  config.batch_size = 16
  with pytest.raises(kd_jax.UsageError, match='another configuration'):
    kd_jax.train(config, tmp_path / 'run')
