"""The images of launch/: the Dockerfiles, and the lock files they install."""

import fnmatch
import json
import pathlib
import re
import shlex
import tomllib

from packaging import requirements, utils
import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / 'launch'
IMAGES = {path.name.partition('.')[0]: path for path in LAUNCH.glob('*file')}
WITH_PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
EXTRAS = WITH_PROJECT['project']['optional-dependencies']
THERE = {'python_version': '3.12', 'sys_platform': 'linux', 'extra': ''}


def instructions(image):
  """Returns the instructions of a Dockerfile: (name, arguments)."""
  text = re.sub(r'^#.*\n', '', IMAGES[image].read_text(), flags=re.MULTILINE)
  lines = text.replace('\\\n', ' ').splitlines()
  return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def given(image, name):
  """Returns the arguments of each instruction of that name."""
  return [given for found, given in instructions(image) if found == name]


def locked(name):
  """Returns the versions of a lock file by package, with their hashes."""
  text = (LAUNCH / f'{name}.lock').read_text().replace('\\\n', ' ')
  entries = [x for x in text.splitlines() if x and not x.startswith('#')]
  found = {}
  for entry in entries:
    pinned, *hashes = entry.split()
    package, equals, version = pinned.partition('==')
    assert equals, pinned
    found[utils.canonicalize_name(package)] = version, hashes
  assert len(found) == len(entries)
  return found


def direct(names):
  """Returns what pyproject.toml asks for with some extras."""
  listed = [*WITH_PROJECT['project']['dependencies']]
  for name in names:
    listed += EXTRAS[name]
  return [requirements.Requirement(text) for text in listed]


def test_there_is_an_image_for_each_kind_of_accelerator():
  assert set(IMAGES) == {'cuda', 'tpu'}


@pytest.mark.parametrize('image', IMAGES)
def test_what_an_image_copies_is_there_and_not_ignored(image):
  ignore = (ROOT / '.dockerignore').read_text().splitlines()
  kept = [line[1:] for line in ignore if line.startswith('!')]
  assert '*' in ignore
  sources = [
    source for copy in given(image, 'COPY') for source in copy.split()[:-1]
  ]
  assert len(sources) > 4
  for source in sources:
    assert (ROOT / source).exists(), source
    assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source


@pytest.mark.parametrize('image', IMAGES)
def test_an_image_holds_all_that_the_wheel_is_built_from(image):
  copied = {
    pathlib.PurePath(source).name
    for copy in given(image, 'COPY')
    for source in copy.split()[:-1]
  }
  project, built = WITH_PROJECT['project'], WITH_PROJECT['tool']['hatch']
  wheel = built['build']['targets']['wheel']
  assert copied >= {
    'pyproject.toml',
    project['readme'],
    *project['license-files'],
    *wheel['packages'],
    *wheel['force-include'],
  }


@pytest.mark.parametrize('image', IMAGES)
def test_an_image_installs_its_lock_files_and_nothing_beside(image):
  installs = [run for run in given(image, 'RUN') if 'pip install' in run]
  *locks, own = (shlex.split(run) for run in installs)
  for name, words in zip(('base', image), locks, strict=True):
    assert words == [
      *('pip', 'install', '--no-deps', '--require-hashes', '--requirement'),
      f'/src/launch/{name}.lock',
    ]
  assert {'--no-deps', '--no-build-isolation', '/src'} <= set(own)
  assert own[-3:] == ['&&', 'pip', 'check']  # the lock files are complete


@pytest.mark.parametrize('image', IMAGES)
def test_an_image_is_of_one_python_and_runs_as_no_root(image):
  (base,) = given(image, 'FROM')
  assert re.fullmatch(r'python:3\.12\.\d+-slim-\w+', base)
  assert int(given(image, 'USER')[-1]) > 0


@pytest.mark.parametrize('image', IMAGES)
def test_sigterm_reaches_python_and_arguments_are_those_of_the_command(image):
  entry = json.loads(given(image, 'ENTRYPOINT')[0])  # no shell between
  assert entry == ['python', '-m', 'kd_jax.main']
  assert not given(image, 'CMD')
  manifest = {'cuda': 'gke_jobset_gpu.yaml', 'tpu': 'gke_jobset.yaml'}[image]
  text = (LAUNCH / manifest).read_text()
  (container,) = re.findall(r'^ +image: (\S+)', text, re.MULTILINE)
  assert container.endswith(f'/kd-jax:{image}')
  assert f'launch/{image}.Dockerfile' in text
  assert yaml.safe_load(text)
  assert f'--tag kd-jax:{image} .' in IMAGES[image].read_text()


@pytest.mark.parametrize(
  'path',
  [p for p in sorted(LAUNCH.iterdir()) if p.suffix != '.lock']
  + [ROOT / 'docs/scaling.md', ROOT / 'docs/imagenet.md', ROOT / 'README.md']
  + [ROOT / 'CONTRIBUTING.md', ROOT / 'docs/robustness.md'],
  ids=lambda path: path.name,
)
def test_files_of_launch_that_are_named_are_there(path):
  for name in re.findall(r'launch/[\w.*-]+\w', path.read_text()):
    assert list(ROOT.glob(name)), f'{path.name} names {name}'


@pytest.mark.parametrize(
  ('lock', 'extras'),
  [('base', ['gcs']), ('cuda', ['gcs', 'cuda13']), ('tpu', ['gcs', 'tpu'])],
)
def test_locked_versions_are_those_that_the_project_allows(lock, extras):
  versions = {**locked('base'), **locked(lock)}
  wanted = direct(extras)
  wanted += map(
    requirements.Requirement, WITH_PROJECT['build-system']['requires']
  )
  for requirement in wanted:
    if requirement.marker and not requirement.marker.evaluate(THERE):
      continue
    version, _ = versions[utils.canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), requirement
  script = (LAUNCH / 'lock.sh').read_text()
  assert all(f'--extra {extra}' in script for extra in extras)
  assert set(extras) <= EXTRAS.keys()


@pytest.mark.parametrize('lock', ['base', *IMAGES])
def test_each_locked_version_has_hashes_and_no_place(lock):
  versions = locked(lock)
  assert versions
  for package, (_, hashes) in versions.items():
    assert hashes, package
    for text in hashes:
      assert re.fullmatch('--hash=sha256:[0-9a-f]{64}', text), package
  assert '://' not in (LAUNCH / f'{lock}.lock').read_text()


def test_images_share_their_base_and_have_one_jax():
  base, cuda, tpu = (locked(name) for name in ('base', 'cuda', 'tpu'))
  assert not base.keys() & (cuda.keys() | tpu.keys())
  jax = {base[name][0] for name in ('jax', 'jaxlib')}
  jax |= {cuda[f'jax-cuda13-{part}'][0] for part in ('plugin', 'pjrt')}
  assert len(jax) == 1
  assert 'libtpu' in tpu
