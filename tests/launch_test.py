"""The launch scripts, with commands that stand in for the real ones."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from tests import children

LAUNCH = pathlib.Path(__file__).parent.parent / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))
MANIFESTS = sorted(LAUNCH.glob('*.yaml'))
LOCKS = ('base', 'tpu')
CPU_S = 60.0  # scripts that wait use a little, and never end by themselves

# Notes how it was called, and ends with the next of the codes in `codes`.
# CODE:STEP: it begins at that step, as a run tells its launcher; CODE!TEXT: it
# says that. `wait` instead of a code: with 75, once SIGTERM comes; `waits` says
# to whom.
STAND_IN = """#!/usr/bin/env bash
here=$(dirname "$0")
printf '%s\\x1f' "$(basename "$0")" "$@" >> "$here/calls"
printf '\\x1e' >> "$here/calls"
[ "$(basename "$0")" = "$(cat "$here/which")" ] || exit 0
code=$(head -n 1 "$here/codes")
sed -i 1d "$here/codes"
if [ "$code" = wait ]; then
  trap 'exit 75' TERM
  echo $$ > "$here/pid"
  mv "$here/pid" "$here/waits"
  while true; do sleep 0.05; done
fi
case $code in
  *!*) echo "${code#*!}" >&2 ;;
  *:*) echo "there ${code#*:}" >> "$KD_JAX_BEGINS" ;;
esac
exit "$(expr "${code:-0}" : '\\([0-9]*\\)')"
"""


class Commands:
  """A folder of commands that stand in for others."""

  def __init__(self, folder, which, *codes):
    self.folder = folder
    for name in ('srun', 'scontrol', 'gcloud', 'python'):
      (folder / name).write_text(STAND_IN)
      (folder / name).chmod(0o755)
    (folder / 'which').write_text(which)
    (folder / 'codes').write_text(''.join(f'{code}\n' for code in codes))

  def start(self, script, *arguments, stderr=None, **environment):
    return children.Child(
      ['bash', LAUNCH / script, *arguments],
      stderr=stderr,
      env={
        'PATH': f'{self.folder}:{os.environ["PATH"]}',
        'HOME': str(self.folder),
        'PAUSE': '0',
        'PAUSES': '0 0 0',
        **environment,
      },
      cpu_s=CPU_S,
    )

  def run(self, script, *arguments, **environment):
    """The script's exit code."""
    with self.start(script, *arguments, **environment) as process:
      return process.wait()

  @contextlib.contextmanager
  def stop(self, script, **environment):
    """The script, which gets SIGTERM while its command runs."""
    with self.start(script, **environment) as process:
      children.until((self.folder / 'waits').exists, process)
      process.send_signal(signal.SIGTERM)
      yield process

  def calls(self, name):
    """The arguments of each call of a command, its name first."""
    found = (self.folder / 'calls').read_text().split('\x1e')
    calls = [call.split('\x1f')[:-1] for call in found if call]
    return [call for call in calls if call[0] == name]


SLURM = {'SLURM_JOB_ID': '7', 'SLURM_CPUS_PER_TASK': '8'}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_a_script_is_correct_shell(script):
  children.run(['bash', '-n', script], check=True)
  if shutil.which('shellcheck'):
    children.run(['shellcheck', script], check=True)


@pytest.mark.parametrize('path', [*SCRIPTS, *MANIFESTS], ids=lambda p: p.name)
def test_a_script_says_what_it_needs_and_whether_it_has_been_run(path):
  head = ' '.join(
    line.strip('# ')
    for line in path.read_text().splitlines()
    if line.startswith('#')
  )
  assert 'eeds ' in head or 'what it needs' in head
  assert 'not yet run' in head or 'Has been run' in head


@pytest.mark.parametrize(
  ('codes', 'starts', 'end'),
  [
    ((0,), 1, 0),
    ((1,), 1, 1),
    ((2,), 1, 2),
    ((137, 0), 1, 137),
    (('75:4', '75:8', '75:8', '134:9', '76:12', '75:13', 0), 7, 0),
    ((76, 134, 0), 3, 0),
    ((76, 76, 134, 134, 0), 4, 134),
    (('75:4', '75:8', '75:8', '75:8', 75, 0), 5, 75),
  ],
)
def test_one_machine_starts_again_what_asks_for_it_and_gets_further(
  tmp_path, codes, starts, end
):
  commands = Commands(tmp_path, 'python', *codes)
  assert commands.run('one_machine.sh', '--config', 'a b') == end
  called = commands.calls('python')
  wanted = ['python', '-m', 'kd_jax.main', '--config', 'a b']
  assert called == [wanted] * starts


@pytest.mark.parametrize(
  ('script', 'which'), [('one_machine.sh', 'python'), ('slurm.sh', 'srun')]
)
@pytest.mark.parametrize(
  'said', ['what(): std::bad_alloc', 'Out of memory allocating 9 bytes']
)
def test_an_abort_for_lack_of_memory_is_not_tried_again(
  tmp_path, script, which, said
):
  commands = Commands(tmp_path, which, f'134!{said}', 0)
  with commands.start(script, stderr=subprocess.PIPE, **SLURM) as process:
    _, told = process.communicate()
  assert process.returncode == 134
  assert said in told
  assert 'memory' in told.splitlines()[-1]
  assert len(commands.calls(which)) == 1


def test_the_pause_doubles_while_no_checkpoint_is_new(tmp_path):
  commands = Commands(tmp_path, 'python', '75:4', '75:4', '75:8', '75:8', 0)
  (tmp_path / 'sleep').write_text('#!/bin/sh\necho "$1" >> "$0"-ed\n')
  (tmp_path / 'sleep').chmod(0o755)
  assert commands.run('one_machine.sh', PAUSE='20') == 0
  paused = (tmp_path / 'sleep-ed').read_text().split()
  assert paused == ['20', '40', '20', '40']


def test_sigterm_ends_a_pause(tmp_path):
  commands = Commands(tmp_path, 'python', 75, 0)
  with commands.start(
    'one_machine.sh', stderr=subprocess.PIPE, PAUSE='600'
  ) as process:
    assert '600 s' in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
  assert len(commands.calls('python')) == 1


@pytest.mark.parametrize(
  ('script', 'arguments', 'environment'),
  [
    *(('local_processes.sh', [n], {}) for n in ('0', '-1', '1e3', '', '08')),
    ('local_processes.sh', [], {}),
    ('local_processes.sh', ['1'], {'MAX_RESTARTS': 'a[$(touch ran)]'}),
    ('local_processes.sh', ['a[$(touch ran)]'], {}),
    ('one_machine.sh', [], {'PAUSE': 'a[$(touch ran)]'}),
    ('slurm.sh', [], {'SLURM_RESTART_COUNT': 'a[$(touch ran)]'}),
  ],
)
def test_what_is_no_number_is_refused_in_a_line_and_not_evaluated(
  tmp_path, script, arguments, environment
):
  ended = children.run(
    ['bash', LAUNCH / script, *arguments],
    env={'PATH': os.environ['PATH'], **environment},
    cwd=tmp_path,
    cpu_s=CPU_S,
  )
  assert ended.returncode == 2
  assert len(ended.stderr.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_one_machine_passes_sigterm_on_and_ends(tmp_path):
  commands = Commands(tmp_path, 'python', 'wait', 0)
  with commands.stop('one_machine.sh') as process:
    assert process.wait() == 75
  assert len(commands.calls('python')) == 1


@pytest.mark.parametrize(
  ('codes', 'restarts', 'starts', 'requeued', 'end'),
  [
    ((0,), 0, 1, False, 0),
    ((1,), 0, 1, False, 1),
    ((2,), 0, 1, False, 2),
    ((75,), 0, 1, True, 75),
    ((75,), 49, 1, True, 75),
    ((75,), 50, 1, False, 75),
    ((76, 134, 0), 0, 3, False, 0),
    ((134, 75), 0, 2, True, 75),
    ((76, 76, 76, 134, 0), 0, 4, False, 134),
  ],
)
def test_slurm_requeues_what_was_saved_and_restarts_what_lost_a_peer(
  tmp_path, codes, restarts, starts, requeued, end
):
  commands = Commands(tmp_path, 'srun', *codes)
  count = {'SLURM_RESTART_COUNT': str(restarts)} if restarts else {}
  code = commands.run('slurm.sh', '--config', 'fpd', **SLURM, **count)
  assert code == end
  called = commands.calls('srun')
  assert len(called) == starts
  wanted = ['python', '-m', 'kd_jax.main', '--config', 'fpd']
  assert all(call[-5:] == wanted for call in called)
  assert '--cpus-per-task=8' in called[0]
  assert commands.calls('scontrol') == [['scontrol', 'requeue', '7']] * requeued


def test_slurm_leaves_a_cancelled_job_cancelled(tmp_path):
  commands = Commands(tmp_path, 'srun', 'wait', 0)
  with commands.stop('slurm.sh', **SLURM) as process:
    # SLURM signals the steps too; the script waits for them to save.
    time.sleep(0.3)
    assert process.poll() is None
    step = int((tmp_path / 'waits').read_text())
    os.kill(step, signal.SIGTERM)
    assert process.wait() == 75
  assert len(commands.calls('srun')) == 1
  assert not commands.calls('scontrol')


def test_slurm_asks_for_a_signal_to_the_steps_and_for_requeueing():
  lines = (LAUNCH / 'slurm.sh').read_text().splitlines()
  options = [line for line in lines if line.startswith('#SBATCH')]
  asked = ' '.join(options)
  assert '--requeue' in asked
  assert '--signal=TERM@120' in asked  # not B: that is the script alone
  first = next(i for i, x in enumerate(lines) if not x.startswith('#'))
  assert all(lines.index(option) < first for option in options)


@pytest.mark.parametrize(
  ('arguments', 'wanted'),
  [
    ('create --spot', 'queued-resources create n --node-id=n --zone=z --spot'),
    ('state', 'queued-resources describe n --zone=z'),
    ('run --config fpd', 'tpu-vm ssh n --zone=z --worker=all'),
    ('log', 'tpu-vm ssh n --zone=z --worker=0'),
    ('stop', 'tpu-vm ssh n --zone=z --worker=all'),
    ('delete', 'queued-resources delete n --zone=z'),
  ],
)
def test_tpu_pod_calls_gcloud(tmp_path, arguments, wanted):
  commands = Commands(tmp_path, 'gcloud', 0)
  code = commands.run('tpu_pod.sh', *arguments.split(), NAME='n', ZONE='z')
  assert code == 0
  (call,) = commands.calls('gcloud')
  assert call[:3] == ['gcloud', 'compute', 'tpus']
  assert call[3:5] == wanted.split()[:2]
  assert set(wanted.split()) <= set(call)


def test_what_tpu_pod_runs_on_a_worker_can_be_stopped(tmp_path):
  commands = Commands(tmp_path, 'gcloud', 0, 0)
  commands.run('tpu_pod.sh', 'run', '--config', "it's $HOME")
  commands.run('tpu_pod.sh', 'stop')
  run, stop = (
    next(x for x in call if x.startswith('--command=')).partition('=')[2]
    for call in commands.calls('gcloud')
  )
  worker = tmp_path / 'worker'
  (worker / 'venv/bin').mkdir(parents=True)
  shutil.copy(LAUNCH / 'one_machine.sh', worker)
  on_worker = Commands(worker / 'venv/bin', 'python', 'wait')
  there = {'cwd': worker, 'env': {**os.environ, 'HOME': str(worker)}}
  with children.Child(['bash', '-c', run], cpu_s=CPU_S, **there) as started:
    assert started.wait() == 0  # what it started goes on
    children.until((worker / 'venv/bin/waits').exists)
    children.run(['bash', '-c', stop], check=True, cpu_s=CPU_S, **there)
  (call,) = on_worker.calls('python')
  assert call[3:] == ['--config', "it's $HOME"]
  pid = int((worker / 'run.pid').read_text())
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


def test_tpu_pod_installs_on_every_worker(tmp_path):
  commands = Commands(tmp_path, 'gcloud', 0, 0)
  assert commands.run('tpu_pod.sh', 'install', NAME='n', ZONE='z') == 0
  (built,) = commands.calls('python')
  assert built[1:4] == ['-m', 'pip', 'wheel']
  copy, install = commands.calls('gcloud')
  assert {'scp', 'n:', '--zone=z', '--worker=all'} <= set(copy)
  assert any(name.endswith('launch/one_machine.sh') for name in copy)
  assert {'ssh', 'n', '--zone=z', '--worker=all'} <= set(install)
  assert '--requirement base.lock --requirement tpu.lock' in install[-1]
  assert all(any(c.endswith(f'/{lock}.lock') for c in copy) for lock in LOCKS)


def test_tpu_pod_ends_with_the_code_of_gcloud(tmp_path):
  commands = Commands(tmp_path, 'gcloud', 3)
  assert commands.run('tpu_pod.sh', 'run', '--config', 'fpd') == 3
  assert commands.run('tpu_pod.sh', 'fly') == 2


@pytest.mark.parametrize('path', MANIFESTS, ids=lambda p: p.name)
def test_a_jobset_restarts_what_asks_for_it_and_nothing_else(path):
  (jobset,) = yaml.safe_load_all(path.read_text())
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert jobset['kind'] == 'JobSet'
  policy = jobset['spec']['failurePolicy']
  assert policy['maxRestarts'] > 0
  # A pod of exit code 1 or 2 fails the job for this reason, and that the set;
  # every other code exceeds the job's backoff limit, and the set restarts.
  (rule,) = policy['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  (replicated,) = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  assert job['backoffLimit'] == 0
  assert job['completionMode'] == 'Indexed'
  assert job['parallelism'] == job['completions'] > 1
  pod = job['template']['spec']
  assert pod['restartPolicy'] == 'Never'  # the policy by exit codes needs it
  assert pod['terminationGracePeriodSeconds'] >= 60
  (container,) = pod['containers']
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes'] == {
    'containerName': container['name'],
    'operator': 'In',
    'values': [1, 2],
  }
  assert container['command'] == ['python', '-m', 'kd_jax.main']
  assert any(a.startswith('--workdir=gs://') for a in container['args'])


def test_the_gpu_jobset_says_who_is_who():
  text = (LAUNCH / 'gke_jobset_gpu.yaml').read_text()
  jobset = yaml.safe_load(text)
  (replicated,) = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  (container,) = job['template']['spec']['containers']
  env = {entry['name']: entry for entry in container['env']}
  name = jobset['metadata']['name']
  first = f'{name}-{replicated["name"]}-0-0.{name}'
  address = env['JAX_COORDINATOR_ADDRESS']['value']
  assert address.rpartition(':')[0] == first
  assert int(env['JAX_NUM_PROCESSES']['value']) == job['completions']
  field = env['JAX_PROCESS_ID']['valueFrom']['fieldRef']['fieldPath']
  index = 'batch.kubernetes.io/job-completion-index'
  assert field == f"metadata.annotations['{index}']"


# As process i, ends with the next of the codes in `codes-i`, after some seconds
# or after process 0 (`first`).
PROCESS = """#!/usr/bin/env bash
here=$(dirname "$0")
[ "$JAX_PROCESS_ID" != 0 ] || echo $$ > "$here/first"
echo "$JAX_NUM_PROCESSES $*" >> "$here/calls-$JAX_PROCESS_ID"
code=$(head -n 1 "$here/codes-$JAX_PROCESS_ID")
sed -i 1d "$here/codes-$JAX_PROCESS_ID"
case $code in
  kill) kill -KILL $$ ;;
  stuck) while true; do sleep 0.1; done ;;
  wait)
    trap 'exit 75' TERM
    touch "$here/waits-$JAX_PROCESS_ID"
    while true; do sleep 0.1; done
    ;;
  *:first)
    until [ -s "$here/first" ]; do sleep 0.1; done
    while kill -0 "$(cat "$here/first")" 2> /dev/null; do sleep 0.1; done
    ;;
  *) sleep "${code#*:}" ;;
esac
exit "${code%:*}"
"""


@pytest.mark.parametrize(
  ('first', 'second', 'starts', 'end', 'said'),
  [
    (['0:0'], ['0:0.5'], 1, 0, ''),
    (['2:0'], ['2:0'], 1, 2, ''),
    (['134:0'], ['1:0.5'], 1, 1, ''),  # the fault, not what followed from it
    (['75:0', '0:0'], ['75:0.3', '0:0'], 2, 0, 'stopped and saved'),
    (['134:0.3', '0:0'], ['76:0', '0:0'], 2, 0, 'its watchdog'),
    (['kill', '0:0'], ['134:first', '0:0'], 2, 0, 'by signal 9'),
    (['134:0', '0:0'], ['stuck', '0:0'], 2, 0, 'ending 1 that did not end'),
    (['75:0'] * 9, ['75:0'] * 9, 3, 75, 'not started again'),
  ],
)
def test_local_processes_start_again_together(
  tmp_path, first, second, starts, end, said
):
  (tmp_path / 'python').write_text(PROCESS)
  (tmp_path / 'python').chmod(0o755)
  for i, codes in enumerate((first, second)):
    (tmp_path / f'codes-{i}').write_text('\n'.join(codes) + '\n')
  ended = children.run(
    ['bash', LAUNCH / 'local_processes.sh', '2', '--config', 'a b'],
    env={
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'GRACE': '4' if 'stuck' in second else '600',
      'MAX_RESTARTS': '2',
      'PAUSE': '0',
    },
    cpu_s=CPU_S,
  )
  assert ended.returncode == end
  assert said in ended.stderr
  for i in range(2):
    calls = (tmp_path / f'calls-{i}').read_text().splitlines()
    assert calls == ['2 -m kd_jax.main --config a b'] * starts


def test_local_processes_do_not_start_again_where_the_kernel_counts_a_kill(
  tmp_path,
):
  events = tmp_path / 'events'
  events.write_text('oom 0\noom_kill 0\n')
  (tmp_path / 'python').write_text(
    f'#!/bin/sh\necho oom_kill 1 > {events}\nkill -KILL $$\n'
  )
  (tmp_path / 'python').chmod(0o755)
  ended = children.run(
    ['bash', LAUNCH / 'local_processes.sh', '1'],
    env={
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'MEMORY_EVENTS': str(events),
    },
    cpu_s=CPU_S,
  )
  assert ended.returncode == 137
  assert 'memory ran out' in ended.stderr


def test_local_processes_pass_sigterm_on_and_end(tmp_path):
  (tmp_path / 'python').write_text(PROCESS)
  (tmp_path / 'python').chmod(0o755)
  for i in range(2):
    (tmp_path / f'codes-{i}').write_text('wait\n')
  with children.Child(
    ['bash', LAUNCH / 'local_processes.sh', '2'],
    env={'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
    stderr=subprocess.PIPE,
    cpu_s=CPU_S,
  ) as process:
    children.until(lambda: len(list(tmp_path.glob('waits-*'))) == 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
  assert process.returncode == 75
  assert 'not started again' in said
