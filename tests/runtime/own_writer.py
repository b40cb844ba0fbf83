"""A writer as a user would write one: rows in a file of its own."""

import json


class Own:
  name = 'own'  # of its files

  def open(self, about, step, past):
    self._path = about.folder.path / f'{self.name}.jsonl'
    lines = self._path.read_text().splitlines() if self._path.exists() else []
    kept = [line for line in lines if json.loads(line)['step'] <= step]
    self._path.write_text(''.join(f'{line}\n' for line in kept))
    told = {'step': step, 'past': [r['step'] for r in past], **about.tags}
    told['config'] = about.config
    about.folder.write_alone(f'{self.name}.json', told)

  def scalars(self, step, values):
    with self._path.open('a') as file:
      file.write(json.dumps({'step': step, **values}) + '\n')

  def flush(self):
    pass

  def close(self, result):
    self._path.with_suffix('.closed').write_text(json.dumps(result))


class Slow(Own):
  """A writer that never gets through `open`."""

  def __init__(self):
    import threading

    self._never = threading.Event()

  def open(self, about, step, past):
    self._never.wait()


class Gone(Own):
  """A writer whose server goes away at step 3."""

  name = 'gone'

  def scalars(self, step, values):
    if step == 3:
      raise ConnectionError('no route\nto the host')
    super().scalars(step, values)


class Half:
  def open(self, about, step, past):
    pass
