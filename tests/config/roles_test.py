"""Students and teachers by name."""

import json

import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.config import roles


def config(**changes):
  made = config_lib.digits()
  made.method = 'kd'
  for path, value in changes.items():
    made.update_from_flattened_dict({path: value})
  return made


def named(**groups):
  """A configuration whose teachers have these fields, by name."""
  made = config()
  made.teacher.name = ''
  made.teachers = config_lib.ConfigDict(groups)
  return made


def test_a_name_that_is_not_there_is_the_common_network():
  made = config()
  assert roles.student(made, 'anything') is made.student
  assert roles.with_teacher(made, 'anything') is made
  made.students.big = config_lib.network('wrn_16_2')
  assert roles.student(made, 'big').name == 'wrn_16_2'
  assert roles.student(made, 'small') is made.student
  assert roles.key(made, 'student', 'big') == 'config.students.big'
  assert roles.key(made, 'student', 'small') == 'config.student'


def test_a_named_teacher_has_its_fields_and_defaults_for_the_others():
  made = named(a={'name': 'resnet8', 'path': 'x', 'mean': [0.5, 0.5, 0.5]})
  made.teacher.cache_logits = True
  found = roles.with_teacher(made, 'a')
  want = config_lib.default().teacher
  want.update({'name': 'resnet8', 'path': 'x', 'mean': (0.5, 0.5, 0.5)})
  want.cache_logits = True  # said once, for all
  assert found.teacher.to_dict() == want.to_dict()
  assert not found.teachers
  assert made.teacher.name == ''  # the run's own is as it was


def test_a_configuration_of_an_older_run_has_no_names():
  stored = config_lib.plain(config())
  del stored['students'], stored['teachers'], stored['teacher']['image_size']
  made = config_lib.ConfigDict(stored)
  roles.check(made, ('student',), ('teacher',))
  assert roles.student(made, 'student').name == 'resnet8'
  assert config_lib.digest(made) == config_lib.digest(config())
  assert config_lib.alone(stored) == config_lib.alone(
    config_lib.plain(config())
  )


WRONG = [
  (config(), ('a',), (), "method kd has no teacher, but config.teacher.name"),
  (named(a={'name': 'x'}), ('s',), (), "config.teachers is 'a': set it to {}"),
  (named(), ('s',), ('teacher',), 'needs a teacher: set config.teacher.name'),
  (
    named(a={'name': 'x'}), ('s',), ('a', 'b'),
    'reads the teachers a, b, and config.teachers lacks b: give config.teach',
  ),
  (config(), ('s',), ('a', 'b'), 'would be 2 teachers of method kd, a and b'),
  (
    named(teachr={'name': 'x'}), ('s',), ('teacher',),
    "teacher in config.teachers, for method kd: 'teachr'; did you mean 'teach",
  ),
]  # fmt: skip


@pytest.mark.parametrize(('made', 'students', 'teachers', 'message'), WRONG)
def test_what_is_lacking_or_too_much_is_one_line(
  made, students, teachers, message
):
  with pytest.raises(errors.UsageError) as raised:
    roles.check(made, students, teachers)
  assert message in str(raised.value)
  assert '\n' not in str(raised.value)


def test_a_common_teacher_that_nobody_reads_is_refused():
  made = named(a={'name': 'x'}, b={'name': 'x'})
  roles.check(made, ('s',), ('a', 'b'))
  roles.check(made, ('s',), ('b', 'a'))
  made.teacher.name = 'resnet20'
  roles.check(made, ('s',), ('a', 'b', 'c'))  # which is c
  with pytest.raises(errors.UsageError, match="'resnet20' is no teacher of"):
    roles.check(made, ('s',), ('a', 'b'))


def test_an_unknown_student_is_named_with_what_is_like_it():
  made = config()
  made.students.student_2 = config_lib.network('resnet8')
  with pytest.raises(errors.UsageError, match="did you mean 'student_"):
    roles.check(made, ('student_0', 'student_1'), ('teacher',))


@pytest.mark.parametrize(
  ('group', 'message'),
  [
    ({'pathh': 'x', 'name': 'x'}, "config.teachers.a: 'pathh'; did you mean"),
    ({'cache_logits': True}, "unknown field of config.teachers.a: 'cache"),
    ({'sees': 'plain'}, "unknown field of config.teachers.a: 'sees"),
    ({'path': 'x'}, "config.teachers.a names no network: give its 'name'"),
    ('resnet8', "config.teachers.a='resnet8': give a group of fields"),
    ({'name': 'x', 'image_size': 'y'}, 'config.teachers.a: '),
    ({'name': 'x', 'recipe': 'y'}, 'config.teachers.a: '),
  ],
)
def test_a_wrong_group_is_refused(group, message):
  with pytest.raises(errors.UsageError) as raised:
    roles.with_teacher(named(a=group), 'a')
  assert message in str(raised.value)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'image_size': -1}, r'^config\.teachers\.a\.image_size=-1: give 0 to'),
    ({'expected_top1': 101.0}, r'^config\.teachers\.a\.expected_top1=101'),
    ({'dtype': 'float16'}, r"value of config\.teachers\.a\.dtype: 'float16'"),
    ({'recipe': {'epochs': 0}}, r'^config\.teachers\.a\.recipe\.epochs=0'),
    ({'key': 'ema'}, r"^config\.teachers\.a\.key='ema': .*teachers\.a\.path"),
  ],
)
def test_a_wrong_value_of_a_named_teacher_is_refused_by_its_key(
  fields, message
):
  made = named(a={'name': 'resnet8', **fields})
  with pytest.raises(errors.UsageError, match=message):
    config_lib.check_values(made)


def test_messages_have_the_key_that_the_user_wrote():
  for kind in (errors.UsageError, errors.RunError):
    with (
      pytest.raises(kind, match=r'^config\.teachers\.a\.path=1: x$'),
      roles.naming(named(a={}), 'a'),
    ):
      raise kind('config.teacher.path=1: x')
    with (
      pytest.raises(kind, match=r'^config\.teacher\.path=1: x$'),
      roles.naming(config(), 'teacher'),
    ):
      raise kind('config.teacher.path=1: x')


def test_what_changes_no_result_of_a_named_teacher_is_in_no_digest():
  base = named(a={'name': 'resnet8'})
  same = named(
    a={'name': 'resnet8', 'expected_top1': 50.0, 'sha256': 'x', 'image_size': 0}
  )
  other = named(a={'name': 'resnet8', 'image_size': 16})
  assert config_lib.digest(base) == config_lib.digest(same)
  assert config_lib.digest(base) != config_lib.digest(other)
  assert config_lib.digest(base) != config_lib.digest(named())


def test_a_teacher_is_trained_on_images_of_its_size():
  made = config()
  assert config_lib.of_teacher(made).data.image_size == 0
  made.teacher.image_size = 16
  assert config_lib.of_teacher(made).data.image_size == 16


def test_the_student_alone_is_the_deployed_one():
  made = config()
  made.students.small = config_lib.network('wrn_16_1')
  groups = ['method', 'small']
  assert roles.deployed(made, groups) == 'small'
  assert roles.deployed(made, ['leader']) == 'student'
  made.batch_students = True
  alone = config_lib.of_baseline(made, 'small')
  assert not alone.batch_students  # there is one
  assert (alone.student.name, alone.method) == ('wrn_16_1', 'ce')
  assert not alone.students
  assert not alone.teachers
  text = json.dumps(config_lib.alone(config_lib.plain(made), 'small'))
  assert 'wrn_16_1' in text
  assert 'students' not in text


def test_the_student_alone_begins_as_the_run_does():
  made = config(**{'student.init': 'x.pth', 'student.init_skip': ('^fc/',)})
  made.students.small = config_lib.network('wrn_16_1')
  student = config_lib.of_baseline(made, 'small').student
  assert (student.name, student.init) == ('wrn_16_1', 'x.pth')
  assert student.init_skip == ('^fc/',)


def test_a_student_of_its_own_has_no_start_of_its_own():
  made = config()
  made.students.small = config_lib.ConfigDict({'name': 'x', 'init': '/x'})
  with pytest.raises(errors.UsageError) as raised:
    roles.student(made, 'small')
  assert str(raised.value) == (
    "config.students.small.init='/x': it is for all students of a run; set "
    'config.student.init'
  )


def test_the_student_alone_keeps_the_rules_for_its_own_parameters():
  made = config(**{'method_args.students': ('small', 'big')})
  made.students.big = config_lib.network('wrn_16_1')
  less = {'weight_decay': 0.0}
  names = (
    '^small/fc', '^small_er/', '^big/', '^method', '^student_0/', 'fc/',
    '^s.*/fc', '^big/|fc/', '^students?/',
  )  # fmt: skip
  made.optimizer.rules = tuple((name, less) for name in names)
  kept = ('fc/', '^s.*/fc', '^big/|fc/', '^students?/')
  alone = config_lib.of_baseline(made).optimizer.rules
  assert alone == tuple((name, less) for name in ('^student/fc', *kept))
  alone = config_lib.of_baseline(made, 'big').optimizer.rules
  assert alone == tuple(
    (name, less)
    for name in ('^student/', 'fc/', '^s.*/fc', '^student/|fc/', '^students?/')
  )


@pytest.mark.parametrize('rate', [1e-3, {'kind': 'cosine', 'value': 0.1}])
def test_a_recipe_has_arguments_and_a_rate_of_its_own(rate):
  made = config()
  made.teacher.recipe.optimizer = config_lib.ConfigDict(
    {'name': 'adam', 'args': {'eps': 1e-6}, 'learning_rate': rate}
  )
  found = config_lib.of_teacher(made).optimizer.to_dict()
  assert (found['name'], found['args']) == ('adam', {'eps': 1e-6})
  assert found['learning_rate'] == rate
  made.teacher.recipe.optimizer = config_lib.ConfigDict({'args': 3})
  with pytest.raises(errors.UsageError, match=r'^config\.teacher\.recipe: '):
    config_lib.of_teacher(made)
