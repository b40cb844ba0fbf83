"""Runs that train together, by one program on the same devices.

Each run has a thread, and the threads take turns: only one of them works at any
moment, so that what they call need not be safe for threads. A thread works
until its run is about to dispatch steps. When all runs have come so far, those
that are furthest behind dispatch together, and go on with their turns.
"""

from collections.abc import Callable, Mapping
import hashlib
import threading
import time
from typing import Any, Generic, TypeVar
import weakref

import jax
from jax.sharding import Mesh
import numpy as np

from kd_jax import errors
from kd_jax.distill import jitted, several, step
from kd_jax.runtime import distributed, screen, watchdog

Result = TypeVar('Result')

WAITING = 'waiting for other seeds'  # the activity of a run's clock


class Ended(Exception):  # noqa: N818  (this is no error)
  """Ends a run, since another one of the meeting could not start."""


class Member:
  """A run of a meeting, as its own thread sees it.

  Attributes:
    name: What the run is called, such as 'seed 0'.
    line: The line of the terminal that all runs share.
    stage: Which of its trainings the run is at. Runs at a lower stage go first.
    step: Steps done.
    dog: The run's watchdog, which rests while the run waits; None at first.
    waited: Seconds of the last dispatch in which others had their turns.
  """

  def __init__(self, meeting: 'Meeting[Any]', name: str):
    """Joins a meeting; its thread begins with the first `turn`."""
    self._meeting, self.name = meeting, name
    self.line = meeting.line
    self.stage = self.step = 0
    self.dog: watchdog.Watchdog | None = None
    self.waited = 0.0
    self._thread: threading.Thread | None = None
    self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
    # What the run brings to the meeting, and what it gets there.
    self.key: tuple[int, ...] = ()
    self.value: Any = None
    self.group: list[Member] = []  # those for which this run does the work
    self.answer: Any = None
    self.failure: BaseException | None = None
    self.work_s = 0.0
    # How the run ended.
    self.is_over = False
    self.result: Any = None
    self.error: BaseException | None = None

  @property
  def seeds(self) -> int:
    """How many runs train together, at most."""
    return self._meeting.size

  def asked(self, ask: Callable[[], bool], done: int) -> bool:
    """Returns whether to stop, as all runs are answered before a dispatch.

    Args:
      ask: Returns whether to stop.
      done: The steps that the run has done.
    """
    self.step = done
    return self._meeting.asked(ask)

  def shared(self, tree: Any) -> Any:
    """Returns arrays, with those of an earlier run where they are the same.

    Args:
      tree: A pytree of arrays, which nothing donates.
    """
    return jax.tree.map(self._meeting.first_alike, tree)

  def steps(
    self,
    exp: step.Experiment,
    assemble: Callable[..., Any],
    mesh: Mesh,
    ahead: int = 1,
  ) -> Callable[..., Any]:
    """Returns what `jitted.train_steps` does, as a function that meets.

    Args:
      exp: The experiment of the phase.
      assemble: The method `batch` of the training split.
      mesh: The devices.
      ahead: The steps that the teachers run ahead.
    """
    alone = jitted.train_steps(exp, assemble, mesh, ahead)
    joint = jitted.train_steps_together(exp, assemble, mesh, ahead)

    def work(given: list[Any]) -> list[Any]:
      if len(given) == 1:
        answers = [alone(*given[0])]
      else:
        seeds, states, frozen, arrays, feeds = zip(*given, strict=True)
        answers = joint(
          np.stack(seeds),
          states,
          several.joined(frozen),
          several.joined(arrays),
          jax.tree.map(lambda *xs: np.stack(xs), *feeds),
        )
      # The runs would wait for the steps before, one after the other.
      jax.block_until_ready(self._meeting.unread)
      self._meeting.unread = [terms for _, terms in answers]
      return answers

    def steps(*given: Any) -> Any:
      count = len(jax.tree.leaves(given[-1])[0])
      return self.meet((self.stage, self.step, count), given, work)

    return steps

  def meet(
    self,
    key: tuple[int, ...],
    value: Any,
    work: Callable[[list[Any]], list[Any]],
  ) -> Any:
    """Waits for the other runs, and returns this run's part of the work.

    Args:
      key: Where the run stands. Those with the least key go on together.
      value: What the run brings.
      work: A function of the values of those who go on, that returns what each
        of them gets. One of their threads calls it.

    Raises:
      Ended: Another run could not start.
    """
    began = time.monotonic()
    self.key, self.value = key, value
    if self.dog is not None:
      self.dog.rest()
    self._back.release()
    self._go.acquire()
    if self.dog is not None:
      self.dog.beat('its turn came')
    if self._meeting.is_ending:
      raise Ended
    if self.group:
      self._lead(work)
    answer, failure = self.answer, self.failure
    self.answer = self.failure = None
    self.waited = time.monotonic() - began - self.work_s
    if failure is not None:
      raise failure
    return answer

  def _lead(self, work: Callable[[list[Any]], list[Any]]) -> None:
    """Does the work of a group, whose members find it when they wake."""
    group, self.group = self.group, []
    values = [member.value for member in group]
    for member in group:
      member.value = None
    began = time.monotonic()
    try:
      answers = work(values)
    except BaseException as error:  # which each of them raises
      for member in group:
        member.failure = error
    else:
      for member, answer in zip(group, answers, strict=True):
        member.answer = answer
    for member in group:
      member.work_s = time.monotonic() - began

  @property
  def has_begun(self) -> bool:
    """Whether the run had its first turn."""
    return self._thread is not None

  def turn(self, task: Callable[[str, 'Member'], Any]) -> None:
    """Lets the run work until it meets or ends; the meeting's thread calls it.

    Args:
      task: What the run does.
    """
    if self._thread is None:
      self._thread = threading.Thread(
        target=self._run, args=(task,), name=self.name, daemon=True
      )
      self._thread.start()
    else:
      self._go.release()
    self._back.acquire()

  def _run(self, task: Callable[[str, 'Member'], Any]) -> None:
    try:
      self.result = task(self.name, self)
    except BaseException as error:  # which the meeting's thread raises
      self.error = error
    self.is_over = True
    self._back.release()


class Meeting(Generic[Result]):
  """Runs that train together, each from its own newest checkpoint.

  Attributes:
    line: The line of the terminal that all runs share.
    is_ending: Whether runs that wait must end.
    unread: The scalars of the last dispatch.
  """

  def __init__(self, tasks: Mapping[str, Callable[[str, Member], Result]]):
    """Takes the runs, of which none begins yet.

    Args:
      tasks: What each run does, by the run's name: a function of that name and
        of the `Member`.
    """
    self.line = screen.Line()
    self._tasks = {Member(self, name): tasks[name] for name in tasks}
    self.is_ending = False
    self.unread: Any = []
    # Arrays that no run has any more are forgotten.
    self._known = weakref.WeakValueDictionary[Any, jax.Array]()
    self._rounds = 0
    self._asked_in, self._stop = -1, False

  @property
  def size(self) -> int:
    """How many runs there are."""
    return len(self._tasks)

  def first_alike(self, x: jax.Array) -> jax.Array:
    """Returns the first array that had the same content."""
    host = np.asarray(x)
    digest = hashlib.sha256(host.tobytes()).digest()
    return self._known.setdefault((host.dtype, host.shape, digest), x)

  def asked(self, ask: Callable[[], bool]) -> bool:
    """Returns whether to stop; the answer is the same until a dispatch."""
    if self._asked_in != self._rounds:
      self._asked_in, self._stop = self._rounds, self._stop or ask()
    return self._stop

  def run(self) -> list[Result]:
    """Lets the runs begin one after the other, and train together.

    A run that fails while the runs begin ends all of them. One that fails later
    leaves the others, which go on.

    Returns:
      What each run returned, in order.

    Raises:
      Exception: What a run raised; of several, the last one that did.
    """
    error: BaseException | None = None
    try:
      for member in self._tasks:
        self._turn(member)
        if member.error is not None:
          raise member.error
      while live := self._live():
        least = min(member.key for member in live)
        group = [member for member in live if member.key == least]
        self._rounds += 1
        group[0].group = group
        for member in group:
          self._turn(member)
          if member.error is not None:
            error = member.error
            self._say(member)
    finally:
      self.is_ending = True
      for member in self._live():
        while not member.is_over:
          self._turn(member)
    if error is not None:
      raise error
    return [member.result for member in self._tasks]

  def _turn(self, member: Member) -> None:
    member.turn(self._tasks[member])

  def _live(self) -> list[Member]:
    """Returns the runs that have begun and not ended."""
    return [m for m in self._tasks if m.has_begun and not m.is_over]

  def _say(self, member: Member) -> None:
    """Says that a run has failed, if others go on."""
    if self._live() and not self._stop:
      text = errors.line(member.error)
      distributed.say(f'{member.name} has failed: {text}; the others go on')
