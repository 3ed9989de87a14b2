"""The speed of a run and the time left, measured with a fake clock."""

import pytest

from attn_flax.training.pace import Pace


class Clock:
  """A clock that a test advances."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def train(pace, clock, updates, seconds):
  for update in updates:
    clock.now += seconds
    pace.move(update)


def evaluate(pace, clock, seconds):
  with pace.evaluating():
    clock.now += seconds


def test_nothing_is_promised_before_an_update_is_done(clock):
  pace = Pace(0, 10, clock=clock)
  clock.now += 5
  pace.move(0)
  assert pace.rate() is None and pace.left() is None


def test_the_time_left_is_that_of_updates_and_of_evaluations_to_come(clock):
  """The first evaluation, which includes compilation, does not count."""
  pace = Pace(0, 1000, 100, clock=clock)
  train(pace, clock, range(1, 101), 0.1)
  assert pace.rate() == pytest.approx(10) and pace.left() == pytest.approx(90)
  evaluate(pace, clock, 60)
  train(pace, clock, range(101, 151), 0.1)
  assert pace.rate() == pytest.approx(10) and pace.left() == pytest.approx(85)
  train(pace, clock, range(151, 201), 0.1)
  evaluate(pace, clock, 4)
  assert pace.left() == pytest.approx(80 + 8 * 4)


def test_a_last_evaluation_between_two_is_counted(clock):
  pace = Pace(0, 50, 20, clock=clock)
  for end in (20, 40):
    train(pace, clock, range(end - 19, end + 1), 1)
    evaluate(pace, clock, 3)
  assert pace.left() == pytest.approx(10 + 3)
  train(pace, clock, range(41, 51), 1)
  assert pace.left() is None


def test_a_run_that_goes_on_counts_its_own_updates_alone(clock):
  pace = Pace(900, 1000, clock=clock)
  train(pace, clock, range(901, 911), 2)
  assert pace.rate() == pytest.approx(0.5) and pace.left() == pytest.approx(180)


def test_a_change_of_speed_is_noticed(clock):
  pace = Pace(0, 1000, clock=clock)
  train(pace, clock, range(1, 201), 1)
  train(pace, clock, range(201, 401), 3)
  assert pace.left() == pytest.approx(600 * 3)
