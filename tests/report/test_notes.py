"""The sentences of a report about failures and misleading results."""

import dataclasses

import fake_findings
import pytest

from attn_flax.report import notes
from attn_flax.study.findings import Cost, Mean, Ratio


@pytest.fixture(scope='module')
def found():
  """A baseline and two variants whose times are proportional to their multiply-adds."""
  study = fake_findings.findings(('plain', 'alike', 'other'), pictures=1)
  runs = [run for run in study.variants[2].runs if not run.error]
  costs = (make_cost(1000, 1.0), make_cost(1500, 1.45), make_cost(1000, 1.0))
  variants = [
    dataclasses.replace(variant, cost=cost)
    for variant, cost in zip(study.variants, costs, strict=True)
  ]
  variants[2] = dataclasses.replace(variants[2], runs=runs)
  return dataclasses.replace(study, variants=variants)


def make_cost(macs, step):
  ratio = Ratio(10 * step, step, step - 0.02, step + 0.02)
  return Cost(1000, macs, ratio, ratio, ratio, 64, 200, 1.0, 1.0)


def change(found, index, **parts):
  """The findings with parts of one variant replaced."""
  variants = list(found.variants)
  variants[index] = dataclasses.replace(variants[index], **parts)
  return dataclasses.replace(found, variants=variants)


def test_an_orderly_study_has_no_notes(found):
  assert notes.notes(found) == []


def test_runs_without_a_result_are_noted(found):
  runs = list(found.variants[1].runs)
  runs[2] = dataclasses.replace(runs[2], error='the loss is nan', scores={})
  (sentence,) = notes.notes(change(found, 1, runs=runs))
  assert sentence == 'No result for alike (seed 2): the loss is nan.'


@pytest.mark.parametrize(
  ('field', 'value', 'what'),
  [
    ('device', 'Tesla', 'devices'),
    ('commit', 'b52', 'commits'),
    ('packages', {'jax': '0.9'}, 'sets of package versions'),
  ],
)
def test_runs_that_were_trained_elsewhere_are_noted(found, field, value, what):
  runs = list(found.variants[0].runs)
  runs[0] = dataclasses.replace(runs[0], trained=fake_findings.environment(**{field: value}))
  (sentence,) = notes.notes(change(found, 0, runs=runs))
  assert sentence == f'The runs were trained with 2 different {what}.'


def test_unsteady_training_is_noted(found):
  best = Mean(0.8, 0.3)
  unsteady = dataclasses.replace(found.variants[2].performance, best=best)
  (sentence,) = notes.notes(change(found, 2, performance=unsteady))
  assert sentence.startswith(
    'Scores vary widely between the seeds of other (standard deviation 30.0 points); the median'
    ' standard deviation of all variants is 0.4 points.'
  )


def test_it_is_noted_where_multiply_adds_and_time_disagree(found):
  for cost in (make_cost(1010, 1.4), make_cost(2000, 1.5)):
    (sentence,) = notes.notes(change(found, 2, cost=cost))
    assert sentence.startswith(
      'Multiply-adds do not predict time here. Relative to plain, other has'
    )
    time = f'×{cost.step_ms.ratio:.2f}'
    assert f'×{cost.macs / 1000:.2f} the multiply-adds and takes {time} the' in sentence
  # Each of the three times is checked.
  late = dataclasses.replace(make_cost(1000, 1.0), latency_ms=make_cost(1000, 1.4).latency_ms)
  (sentence,) = notes.notes(change(found, 2, cost=late))
  assert 'takes ×1.00 to ×1.40 the time' in sentence


def test_a_kind_of_note_is_one_sentence_for_all_variants(found):
  noted = change(found, 1, cost=make_cost(1010, 1.4))
  noted = change(noted, 2, cost=make_cost(1020, 1.5))
  (sentence,) = notes.notes(noted)
  assert 'alike has ×1.01 the multiply-adds and takes ×1.40 the time; other has' in sentence

  def fail(study, index, seeds):
    runs = [
      dataclasses.replace(run, error='out of memory') if run.seed in seeds else run
      for run in study.variants[index].runs
    ]
    return change(study, index, runs=runs)

  failed = fail(fail(found, 1, (0, 2)), 2, (1,))
  expected = 'No result for alike (seeds 0 and 2) and other (seed 1): out of memory.'
  assert notes.notes(failed) == [expected]
  (sentence,) = notes.notes(dataclasses.replace(found, unexplained=(3, 4)))
  assert sentence.startswith('For seeds 3 and 4, no test image is predicted correctly')
  runs = list(found.variants[0].runs)
  elsewhere = fake_findings.environment(device='Tesla', commit='b52')
  runs[0] = dataclasses.replace(runs[0], trained=elsewhere)
  (sentence,) = notes.notes(change(found, 0, runs=runs))
  assert sentence == 'The runs were trained with 2 different devices and 2 different commits.'
  unsteady = found
  # Two of five variants are unsteady.
  for index in (1, 2):
    best = Mean(0.8, 0.3)
    wide = dataclasses.replace(found.variants[index].performance, best=best)
    unsteady = change(unsteady, index, performance=wide)
  steady = [dataclasses.replace(found.variants[0], name=f'steady {k}', runs=()) for k in range(2)]
  unsteady = dataclasses.replace(unsteady, variants=[*unsteady.variants, *steady])
  (sentence,) = notes.notes(unsteady)
  assert 'between the seeds of alike (standard deviation 30.0 points) and other (' in sentence


def test_seeds_without_explanations_are_noted(found):
  (sentence,) = notes.notes(dataclasses.replace(found, unexplained=(3,)))
  assert sentence.startswith('For seed 3,') and 'no explanations are scored' in sentence
