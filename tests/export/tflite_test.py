"""What is written for TensorFlow computes what JAX does, or is not written."""

import importlib.util
import json
import runpy
import sys
import types

import jax
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.cli import export
from kd_jax.export import tflite
from tests import finished

needs_tensorflow = pytest.mark.skipif(
  importlib.util.find_spec('tensorflow') is None
  or jax.__version_info__ >= tflite.UNREAD,
  reason='needs kd_jax[tensorflow]',
)


@needs_tensorflow
def test_tensorflow_and_tflite_compute_the_logits_of_jax(tmp_path, capsys):
  run, out = finished.places() / 'kd', tmp_path / 'out'
  assert export.main([str(run), str(out), '--tensorflow']) == 0
  said = capsys.readouterr().out.splitlines()[-3:]
  names = ['saved_model', 'student.tflite', 'student.int8.tflite']
  assert [line.split(':')[0] for line in said] == [f'{out}/{n}' for n in names]
  assert all((out / name).exists() for name in names)
  sizes = [(out / name).stat().st_size for name in names[1:]]
  assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
  ('logits', 'want'),
  [
    ([[1.0, 4.0]], 0.125),
    ([[1.0, 2.0]], 0.5),
    ([[1.0, np.nan]], np.nan),
  ],
)
def test_a_logit_that_is_nan_stays_the_largest_difference(
  logits, want, monkeypatch
):
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '3')  # else the script sets it
  for name in ('tensorflow', 'jax.experimental.jax2tf'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  farthest = runpy.run_path(str(tflite._SCRIPT))['farthest']
  jax_logits = np.array([[1.0, 4.0]], np.float32)
  far = farthest(0.125, np.array(logits, np.float32), jax_logits)
  assert type(far) is float
  np.testing.assert_equal(far, want)
  np.testing.assert_equal(farthest(far, jax_logits, jax_logits), want)


def script(monkeypatch, tmp_path, text):
  """Puts another script in the place of the one that needs TensorFlow."""
  (tmp_path / 'script.py').write_text(text)
  monkeypatch.setattr(tflite, '_SCRIPT', tmp_path / 'script.py')


def printing(**far):
  return f'print({json.dumps(far)!r})'


@pytest.mark.parametrize(
  ('text', 'error', 'said'),
  [
    ('raise SystemExit(3)', errors.UsageError, r"'kd_jax\[tensorflow\]'"),
    ('1 / 0', errors.RunError, 'conversion failed: ZeroDivisionError'),
    (
      printing(**{'student.tflite': 2e-4}),
      errors.RunError,
      r'student\.tflite differ from those of JAX by 0\.0002',
    ),
    (
      printing(**{'student.int8.tflite': float(np.nan)}),
      errors.RunError,
      r'int8\.tflite differ from those of JAX by nan',
    ),
  ],
)
def test_what_fails_in_the_other_process_is_one_line(
  text, error, said, tmp_path, monkeypatch
):
  script(monkeypatch, tmp_path, text)
  with pytest.raises(error, match=said):
    tflite.write(tmp_path)


def test_eight_bits_may_differ_more(tmp_path, monkeypatch):
  far = {'student.tflite': 1e-6, 'student.int8.tflite': 0.05}
  script(monkeypatch, tmp_path, printing(**far))
  assert tflite.write(tmp_path) == far


def test_what_cannot_be_written_is_refused_first(monkeypatch):
  known = {'tensorflow': object()}
  monkeypatch.setattr(importlib.util, 'find_spec', known.get)
  monkeypatch.setattr(jax, '__version_info__', (0, 11, 0))
  with pytest.raises(errors.UsageError, match=r"pip install 'jax<0\.11'"):
    tflite.check({'dtype': 'float32'})
  monkeypatch.setattr(jax, '__version_info__', (0, 10, 2))
  tflite.check({'dtype': 'float32'})
  with pytest.raises(errors.UsageError, match='only float32'):
    tflite.check({'dtype': 'bfloat16'})
  with pytest.raises(errors.UsageError, match='is for segmentation'):
    tflite.check({'dtype': 'float32', 'task': 'segmentation'})
  known.clear()
  with pytest.raises(errors.UsageError, match='needs TensorFlow: pip install'):
    tflite.check({'dtype': 'float32'})
