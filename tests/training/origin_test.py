import os

from etils import epath
import pytest

from kd_jax import errors
from kd_jax.training import origin
from tests.runtime import bucket

pytest.importorskip('gcsfs', reason='teachers in buckets need gcsfs')


def test_a_bucket_that_refuses_is_one_line(monkeypatch, tmp_path):
  with bucket.Server() as server:
    server.broken = True
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    import fsspec

    fsspec.filesystem('gcs').clear_instance_cache()
    with pytest.raises(errors.UsageError, match='gs://b/run cannot be reached'):
      origin.digest('gs://b/run', tmp_path)


def test_a_pipe_among_a_runs_files_is_not_waited_for(tmp_path):
  (tmp_path / 'run/student').mkdir(parents=True)
  (tmp_path / 'run/student/weights').write_text('x')
  plain = origin.digest(tmp_path / 'run', epath.Path(tmp_path / 'home'))
  os.mkfifo(tmp_path / 'run/student/pipe')
  again = origin.digest(tmp_path / 'run', epath.Path(tmp_path / 'home'))
  assert again == plain
