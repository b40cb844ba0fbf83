"""The keys that say what students begin with."""

from kd_jax.config.keys import Key

KEYS = (
  Key(
    'student.init', '',
    "What every student begins with: a run's folder, an export, or a file of "
    "PyTorch weights, at home or https://, as for teacher.path; also of the "
    "classifier whose layers are a dense network's backbone. '' is at random.",
    added=True,
  ),
  Key(
    'student.init_skip', (),
    'Regular expressions: what has one of them in its path, such as '
    "'^fc/' in 'fc/kernel', is not taken and begins at random.",
    added=True,
  ),
  Key(
    'student.init_key', '',
    "Where that file has the weights, such as 'model_ema'; '' looks for them.",
    added=True,
  ),
  Key(
    'student.init_sha256', '',
    "That file's SHA-256; see teacher.sha256.",
    changes_result=False, added=True,
  ),
  Key(
    'student.init_allow_imports', False,
    'Lets the run at that path import code; see teacher.allow_imports.',
    changes_result=False, added=True,
  ),
)  # fmt: skip
