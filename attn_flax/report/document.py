"""The report before it is HTML or Markdown: sections of sentences, tables and illustrations."""

from collections.abc import Iterable, Mapping, Sequence

from attn_flax.report import formats
from attn_flax.report.answer import answer
from attn_flax.report.figures import channels, pareto, pictures, plots
from attn_flax.report.figures.fonts import lettering
from attn_flax.report.figures.style import Illustration, drawing
from attn_flax.report.notes import notes
from attn_flax.report.pages import pages, wording
from attn_flax.report.parts import Part, Points, Section, gallery, leaves
from attn_flax.report.tables import results, scores
from attn_flax.report.tables.cells import Table
from attn_flax.study.explanations import SCORES
from attn_flax.study.findings import Findings


def sections(findings: Findings) -> list[Section]:
  """The sections of the whole report, with all figures drawn; empty ones are left out."""
  quality, own = wording(findings).quality, pages(findings)
  (verdict, *further), noted = answer(findings), notes(findings)
  with drawing(lettering(findings.class_names).families):
    made = [
      Section(
        'answer',
        'Answer',
        [verdict],
        _there([results.summary(findings), Points(further), plots.differences(findings)]),
      ),
      Section('notes', 'Notes', parts=[Points(noted)] if noted else []),
      Section(
        f'{quality}-section',
        quality.capitalize(),
        parts=_there(
          [results.performance(findings), plots.curves(findings), *own.scores(findings)],
        ),
      ),
      Section(
        'cost-section',
        'Cost',
        parts=_there([results.cost(findings), gallery(pareto.plots(findings))]),
      ),
      _explanations(findings),
      Section(
        'pictures',
        'Pictures',
        parts=_there(
          [
            pictures.cams(findings),
            *pictures.gates(findings),
            *channels.plots(findings),
          ]
        ),
      ),
      *own.further(findings),
      Section(
        'reproduction',
        'Conditions and runs',
        parts=[results.conditions(findings), results.runs(findings)],
      ),
    ]
  return [section for section in made if section.paragraphs or section.parts]


def _explanations(findings: Findings) -> Section:
  if not any(variant.explanations for variant in findings.variants):
    return Section('explanations-section', 'Explainability', ['No explanations were scored.'])
  scored = {
    name
    for variant in findings.variants
    if variant.explanations
    for scores in variant.explanations.scores.values()
    for name in scores
  }
  paragraphs = [
    'For each seed, maps are scored on test images whose class all variants predict correctly.'
  ]
  on_object = scored & {'pointing', 'energy_mask', 'energy_box', 'iou'}
  if on_object:
    paragraphs.append(
      'Pointing game, energy and IoU measure whether a map lies on the object, over'
      f' {_counted(findings.localized_images)}.'
    )
  else:
    paragraphs.append(
      'The dataset has neither masks nor boxes: whether a map lies on the object is not measured.'
    )
  if findings.perturbed_images:
    paragraphs.append(
      f'Insertion and deletion (in {formats.number(findings.steps, 0)}'
      f' step{"" if findings.steps == 1 else "s"}) and ROAD measure whether the prediction depends'
      f' on the pixels that a map ranks highest, over {_counted(findings.perturbed_images)}.'
    )
  paragraphs.append(
    'In the table of each score, a control is followed by the gain of the map over it and the 95 %'
    ' interval of that gain, paired by run and image and not corrected for multiple comparisons; a'
    ' positive gain means that the map is better, also where lower scores are better. Difference:'
    f' the score minus that of {findings.baseline}, with its 95 % interval, corrected for the'
    ' number of variants. Insertion, deletion and ROAD depend on how confident a network is; for'
    ' these, the score of the random map is subtracted before networks are compared. n is the'
    ' number of pairs of a run and an image.'
  )
  return Section(
    'explanations-section',
    'Explainability',
    paragraphs,
    _there(
      [
        scores.overview(findings),
        plots.scores(findings),
        *(scores.score_table(findings, name) for name in SCORES if name in scored),
      ]
    ),
  )


def _there(parts: Iterable[Part | None]) -> list[Part]:
  return [part for part in parts if part is not None]


def _counted(images: Mapping[int, int]) -> str:
  """Numbers of images: '1 812 (seed 0) and 1 790 (seed 1) images', or '100 images per seed'."""
  numbers = {seed: formats.number(n, 0) for seed, n in images.items()}
  if len(set(numbers.values())) == 1:
    number = next(iter(numbers.values()))
    return f'{number} {"image" if number == "1" else "images"} per seed'
  return formats.listing([f'{n} (seed {seed})' for seed, n in numbers.items()]) + ' images'


def all_tables(document: Sequence[Section]) -> list[Table]:
  """Every table of the report, in its order."""
  return [part for section in document for part in leaves(section.parts) if isinstance(part, Table)]


def all_illustrations(document: Sequence[Section]) -> list[Illustration]:
  """Every illustration of the report, in its order."""
  return [
    part for section in document for part in leaves(section.parts) if isinstance(part, Illustration)
  ]
