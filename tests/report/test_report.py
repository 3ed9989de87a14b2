"""The report has all findings in HTML, Markdown and CSV, whatever is missing or oddly named."""

import csv
import dataclasses
import re
from html.parser import HTMLParser

import fake_findings
import numpy as np
import pytest
from fake_findings import SCRIPT
from PIL import Image

from attn_flax.report import formats, pages, parts
from attn_flax.report.answer import answer
from attn_flax.report.figures import pareto, style
from attn_flax.report.figures.fonts import lettering
from attn_flax.report.notes import notes
from attn_flax.report.tables import results
from attn_flax.report.wording import Title, Wording
from attn_flax.report.write import write_report
from attn_flax.study.explanations import SCORES
from attn_flax.study.findings import Mean, Run

VOID = {'meta', 'img', 'br', 'link', 'base', 'input', 'hr', 'source'}

# Used in the column titles of the HTML.
NO_BREAK_HYPHEN = '\u2011'


class Page(HTMLParser):
  """The tags of a page, and the texts of its tables by the heading or section above them."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.tables, self.place = [], [], {}, ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.tags.append((tag, attributes))
    if tag not in VOID:
      self.open.append(tag)
    if tag in ('section', 'h3'):
      self.place = attributes['id']
    if tag == 'tr':
      self.tables.setdefault(self.place, []).append([])
    if tag in ('th', 'td'):
      self.tables[self.place][-1].append('')

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if {'th', 'td'} & set(self.open):
      self.tables[self.place][-1][-1] += data.replace('\xa0', ' ')

  def row(self, place, name, *more):
    """The row of a variant, whose name may be followed by its mechanism."""
    return next(
      row
      for row in self.tables[place]
      if f'{row[0]} '.startswith(f'{name} ') and row[1 : 1 + len(more)] == list(more)
    )


@pytest.fixture(scope='module')
def found():
  return fake_findings.findings(pictures=3)


@pytest.fixture(scope='module')
def folder(found, tmp_path_factory):
  folder = tmp_path_factory.mktemp('study') / 'report'
  write_report(found, folder)
  return folder


@pytest.fixture(scope='module')
def page(folder):
  return Page((folder / 'report.html').read_text())


@pytest.fixture(scope='module')
def rows(folder):
  with open(folder / 'results.csv', newline='') as file:
    return {row['variant']: row for row in csv.DictReader(file)}


def markdown_rows(text):
  """The cells of every table row."""
  lines = [line for line in text.splitlines() if line.startswith('| ')]
  return [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]


def test_the_csv_holds_every_digit(found, rows):
  assert list(rows) == list(fake_findings.NAMES)
  for variant in found.variants:
    row, accuracy, cost = rows[variant.name], variant.performance, variant.cost
    assert float(row['top1_mean']) == accuracy.best.value
    assert float(row['top1_spread']) == accuracy.best.spread
    for name in ('top5_mean', 'calibration_error'):
      assert float(row[name]) == accuracy.further[name.removesuffix('_mean')].value
    for name in ('top5', 'calibration'):
      assert float(row[f'{name}_spread']) == 0.00123
    assert row['verdict'] == accuracy.verdict
    if accuracy.difference is None:
      assert row['difference'] == row['difference_low'] == row['difference_high'] == ''
    else:
      assert float(row['difference']) == accuracy.difference.mean
      assert float(row['difference_low']) == accuracy.difference.low
      assert float(row['difference_high']) == accuracy.difference.high
    (confusion, *_) = accuracy.arrays['confusion']
    shares = confusion.diagonal() / confusion.sum(1)
    assert [float(row[f'top1_class_{k}']) for k in range(10)] == list(shares)
    assert (int(row['params']), int(row['macs'])) == (cost.params, cost.macs)
    assert float(row['params_ratio']) == cost.params / found.variants[0].cost.params
    for name in ('step', 'latency', 'throughput'):
      measured = getattr(cost, f'{name}_ms')
      assert float(row[f'{name}_ms']) == measured.median
      bounds = [float(row[f'{name}_ratio{end}']) for end in ('', '_low', '_high')]
      assert bounds == [measured.ratio, measured.low, measured.high]
    assert float(row['images_per_second']) == pytest.approx(256e3 / cost.throughput_ms.median)
    assert float(row['peak_mb']) == cost.peak_mb
    scores = variant.explanations.scores
    for kind, prefix in (('Grad-CAM', 'gradcam'), ('own map', 'own')):
      for name in SCORES:
        if kind not in scores:
          assert row[f'{prefix}_{name}'] == ''
          continue
        score = scores[kind][name]
        assert float(row[f'{prefix}_{name}']) == score.value
        assert float(row[f'{prefix}_{name}_fixed']) == score.controls['best fixed map']
        gain = float(row[f'{prefix}_{name}_random_weights_gain_low'])
        assert gain == score.gains['random weights'].low


def test_html_and_markdown_print_the_same_numbers(found, folder, page):
  in_markdown = markdown_rows((folder / 'report.md').read_text())
  for variant in found.variants:
    accuracy, cost = variant.performance, variant.cost
    row = page.row('accuracy-section', variant.name)
    expected = [f'{100 * part:.2f}' for part in accuracy.best]
    assert row[3].split() == [expected[0], '±', expected[1]]
    if accuracy.difference:
      bounds = [100 * bound for bound in accuracy.difference[3:5]]
      mean = f'{100 * accuracy.difference.mean:+.2f}'
      text = f'{mean} [{bounds[0]:+.2f}, {bounds[1]:+.2f}]'.replace('-', '−')
      assert row[5] == text
      assert page.row('answer', variant.name)[3] == text
    assert row[1] == (accuracy.verdict or 'baseline')
    row = page.row('cost-section', variant.name)
    assert row[1].split()[:2] == [f'{cost.params / 1e3:.3f}', 'k']
    assert row[3].split()[0] == f'{cost.step_ms.median:.0f}'
    ratio = f'×{cost.step_ms.ratio:.2f} [{cost.step_ms.low:.2f}, {cost.step_ms.high:.2f}]'
    assert ' '.join(row[3].split()[1:]) == ratio
    score = variant.explanations.scores['Grad-CAM']['deletion']
    verdict = score.verdict or 'baseline'
    row = page.row('score-deletion', variant.name, verdict, 'Grad-CAM')
    assert row[3:5] == [f'{score.value:.3f}', formats.number(5123, 0)]
    gain = score.gains['centered Gaussian']
    text = f'{score.controls["centered Gaussian"]:.3f} {gain.mean:+.3f}'.replace('-', '−')
    assert row[6].startswith(text)

  # Markdown has the same rows as HTML, except that it puts details in parentheses.
  def letters(text):
    text = re.sub(r'\\(.)', r'\1', text)
    for entity, letter in (('&lt;', '<'), ('&gt;', '>'), ('&amp;', '&'), ('`', '')):
      text = text.replace(entity, letter)
    return re.sub(r'[\s()]', '', text).replace(NO_BREAK_HYPHEN, '-')

  ours = [[letters(cell) for cell in row] for table in page.tables.values() for row in table]
  theirs = [[letters(cell) for cell in row] for row in in_markdown if '---' not in row]
  assert ours == theirs


def test_every_verdict_is_a_word(folder, page):
  text = (folder / 'report.md').read_text()
  for verdict in ('better', 'worse', 'no difference shown'):
    assert f'| {verdict} |' in text
    for place in ('answer', 'accuracy-section'):
      assert any(row[1] == verdict for row in page.tables[place])


def test_verdicts_stand_beside_the_names(page):
  judged = [table for table in page.tables.values() if 'verdict' in table[0]]
  assert len(judged) == 2 + len(SCORES)
  assert all(table[0][:2] == ['variant', 'verdict'] for table in judged)


def test_the_answer_comes_first(folder, found):
  sentences = ' '.join(answer(found))
  verdict = (
    'In top-1 accuracy, a|b and se are better than none; cbam is worse; no difference is shown for'
    f' eca, bam and {SCRIPT}.'
  )
  assert answer(found)[0] == verdict
  assert '×1.11 (se)' in sentences
  assert 'true difference that the study finds with 80 % power is 1.23 points.' in sentences
  text = (folder / 'report.md').read_text()
  # The verdict, a small table, and then the rest.
  first = text.split('## Answer\n')[1].strip().splitlines()
  assert first[0].startswith('In top-1 accuracy, a\\|b and se are better than none; cbam is worse;')
  assert first[1] == '' and first[2].startswith('| variant | verdict | top-1, % | difference,')
  assert [len(row) for row in markdown_rows('\n'.join(first))[:8]] == [5] * 8
  assert '| a\\|b | better | 91.40 | +1.28 (\\[+0.67, +1.89\\]) | ×1.55 |' in first
  assert text.index('## Answer') < text.index('## Accuracy') < text.index('## Cost')


def test_names_are_escaped(folder, page):
  text = (folder / 'report.html').read_text()
  assert SCRIPT not in text
  assert text.count('<script>') == 1  # The script of the page itself, which sorts tables.
  row = page.row('accuracy-section', SCRIPT)
  assert (row[0], row[-1]) == (SCRIPT, f'{SCRIPT} at branch, stages 1, 2, 3')
  text = (folder / 'report.md').read_text()
  assert '<script>' not in text and '<nan>' not in text
  assert '| a\\|b |' in text


def test_the_page_loads_nothing_from_elsewhere(folder, page):
  for tag, attributes in page.tags:
    for name in ('src', 'href', 'srcset', 'action', 'poster', 'data'):
      value = attributes.get(name)
      if value is not None:
        is_picture = tag in ('img', 'source')
        assert value.startswith('data:image/webp;base64,' if is_picture else '#'), (tag, value)
    assert tag not in ('link', 'iframe', 'object', 'embed', 'base')
    if tag == 'img':
      # The dark overlay of a picture has no alternative text.
      assert bool(attributes['alt']) == (attributes.get('class') != 'night')
  style_sheet = (folder / 'report.html').read_text().split('<style>')[1].split('</style>')[0]
  assert 'url(' not in style_sheet and '@import' not in style_sheet
  policy = next(a['content'] for _, a in page.tags if 'http-equiv' in a)
  assert policy.startswith("default-src 'none'")
  assert (folder / 'report.html').stat().st_size < 6e6


def test_the_contents_lead_to_every_section(page):
  ids = [a['id'] for _, a in page.tags if 'id' in a]
  assert len(ids) == len(set(ids))
  links = [a['href'][1:] for tag, a in page.tags if tag == 'a']
  assert links == [a['id'] for tag, a in page.tags if tag == 'section']


def test_pictures_are_files_and_linked(folder, page):
  linked = re.findall(r'\]\(plots/(\w+)\.png\)', (folder / 'report.md').read_text())
  files = {path.stem for path in (folder / 'plots').iterdir()}
  assert set(linked) == files and len(linked) == len(files)
  assert len([tag for tag, a in page.tags if tag == 'img' and a['alt']]) == len(files)
  assert {'grad_cam', 'learning_curves', 'differences', 'scores', 'pareto_step_ms'} <= files
  assert {'confusion_0_none', 'channels_1_se', 'gates_3_cbam_spatial_gate'} <= files
  assert 'gates_5_a_b_attention' in files
  for path in (folder / 'plots').iterdir():
    with Image.open(path) as image:
      image.verify()


def test_conditions_and_runs(found, page):
  conditions = dict(page.tables['conditions'])
  assert conditions['trained with versions'] == 'Python 3.11.7, jax 0.10.2, flax 0.12.8'
  assert conditions['command'] == found.conditions.command
  for variant in found.variants:
    for run in variant.runs:
      row = page.row('runs', variant.name, str(run.seed))
      assert row[-2:] == [run.folder, run.command]
      assert row[4] == (f'failed {run.error}' if run.error else 'finished')


def test_every_run_is_a_row_beside_the_means(found, folder):
  with open(folder / 'runs.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  runs = [run for variant in found.variants for run in variant.runs]
  assert len(rows) == len(runs) == 22
  for row, run in zip(rows, runs, strict=True):
    assert (row['variant'], int(row['seed'])) == (run.variant, run.seed)
    assert (row['folder'], row['command'], row['error']) == (run.folder, run.command, run.error)
    assert row['state'] == ('failed' if run.error else 'finished')
    for name in ('top1', 'top5', 'calibration_error'):
      assert row[name] == ('' if run.error else repr(run.scores[name]))


def test_matrices_and_papers_are_folded(folder, page):
  text = (folder / 'report.html').read_text()
  folds = re.findall('<details>.*?</details>', text, re.DOTALL)
  assert [re.search('<summary>(.*)</summary>', fold)[1] for fold in folds] == [
    'Confusion matrices',
    'Results that papers report for the same mechanisms',
  ]
  assert folds[0].count('Confusion matrix of none:') == 1 and 'arxiv.org' in folds[1]
  assert text.count('arxiv.org/abs') == folds[1].count('arxiv.org/abs')
  assert (folder / 'report.md').read_text().count('<details>') == 2


def test_the_dark_paper_of_the_page_is_that_of_its_pictures(folder):
  dark = (folder / 'report.html').read_text().split('(prefers-color-scheme: dark)')[1]
  assert f'--paper: {style.NIGHT};' in dark


def test_the_words_of_statistics(folder):
  text = (folder / 'report.md').read_text()
  for word in ('top-1 minus that of none', 'with 80 % power', 'Each command reproduces its row.'):
    assert word in text
  assert not re.search('four of five|makes its row again|differ much|less that of', text)


def test_published_accuracies_have_a_table_of_their_own(page):
  head, *body = page.tables['published-section']
  assert {'here: top-1, %', 'published top-1, %'} <= {x.replace(NO_BREAK_HYPHEN, '-') for x in head}
  row = page.row('published-section', 'se')
  assert row[1].startswith('91.') and row[3:7] == [
    'se in ResNet-18 ImageNet',
    '70.40',
    '70.59',
    '+0.19',
  ]
  assert len(body) > 5


@pytest.mark.parametrize(
  'change',
  [
    lambda found: found,
    lambda found: fake_findings.without(found, cost=None),
    lambda found: fake_findings.without(found, explanations=None, pictured=None),
    lambda found: fake_findings.without(found, performance=None),
    lambda found: fake_findings.without(
      found, performance=None, cost=None, explanations=None, pictured=None, runs=()
    ),
    lambda found: dataclasses.replace(found, variants=found.variants[:1]),
    lambda found: dataclasses.replace(
      found,
      variants=[
        found.variants[0],
        dataclasses.replace(
          found.variants[1],
          performance=None,
          cost=None,
          explanations=None,
          pictured=None,
          runs=[Run('se', 0, 'runs/se', 'python main.py', error='out of memory')],
        ),
      ],
    ),
  ],
  ids=['no masks', 'no cost', 'no pictures', 'no accuracy', 'nothing', 'baseline', 'failed'],
)
def test_what_is_missing_is_said_and_does_not_crash(change, tmp_path, monkeypatch):
  monkeypatch.setattr(style, 'DPI', 40)
  found = change(fake_findings.findings(('none', 'se'), masks=False, seeds=1, pictures=1))
  write_report(found, tmp_path)
  page = Page((tmp_path / 'report.html').read_text())
  assert 'n/a' in page.row('accuracy-section', 'none')
  text = (tmp_path / 'report.md').read_text()
  assert not {'nan', 'None', 'inf'} & set(text.split())
  explained = any(variant.explanations for variant in found.variants)
  assert ('neither masks nor boxes' in text) == explained
  for table in page.tables.values():
    assert len({len(row) for row in table}) == 1


def test_what_is_not_known_is_empty_in_the_csv(tmp_path, monkeypatch):
  monkeypatch.setattr(style, 'DPI', 40)
  found = fake_findings.findings(('none', 'se'), pictures=1)
  counts = 9 * np.eye(10, dtype=int) + np.eye(10, k=-1, dtype=int) + np.eye(10, k=9, dtype=int)
  counts[3] = 0  # No test image is of class 3.
  variants = [
    dataclasses.replace(
      v, performance=dataclasses.replace(v.performance, arrays={'confusion': np.stack([counts])})
    )
    for v in found.variants
  ]
  write_report(dataclasses.replace(found, variants=variants), tmp_path)
  with open(tmp_path / 'results.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert [row['top1_class_3'] for row in rows] == ['', '']
  assert float(rows[0]['top1_class_4']) == 0.9
  assert 'neither masks nor boxes' not in (tmp_path / 'report.md').read_text()


def test_top5_of_few_classes_has_no_column(tmp_path, monkeypatch):
  monkeypatch.setattr(style, 'DPI', 40)
  found = fake_findings.findings(('none', 'se'), pictures=1)
  variants = [
    dataclasses.replace(
      v,
      performance=dataclasses.replace(
        v.performance, further={'calibration_error': v.performance.further['calibration_error']}
      ),
    )
    for v in found.variants
  ]
  write_report(dataclasses.replace(found, variants=variants), tmp_path)
  assert 'top-5' not in (tmp_path / 'report.md').read_text()
  assert 'top5' not in (tmp_path / 'results.csv').read_text()


def test_of_thousands_of_classes_no_confusion_is_drawn(tmp_path, monkeypatch):
  monkeypatch.setattr(style, 'DPI', 40)
  found = fake_findings.findings(('none', 'se'), pictures=1)
  arrays = {
    'class_images': np.array([[2] * 9 + [0]] * 2),
    'class_right': np.array([[1] * 10, [2] * 10]),
  }
  variants = [
    dataclasses.replace(v, performance=dataclasses.replace(v.performance, arrays=arrays))
    for v in found.variants
  ]
  write_report(dataclasses.replace(found, variants=variants), tmp_path)
  assert not list((tmp_path / 'plots').glob('confusion*'))
  with open(tmp_path / 'results.csv', newline='') as file:
    (row, _) = csv.DictReader(file)
  assert (row['top1_class_3'], row['top1_class_9']) == ('0.75', '')


def test_a_report_replaces_an_older_one_and_nothing_else(tmp_path, monkeypatch):
  monkeypatch.setattr(style, 'DPI', 40)
  plots = tmp_path / 'plots'
  write_report(fake_findings.findings(('none', 'cbam'), pictures=1), tmp_path)
  (plots / 'my_own.png').write_bytes(b'mine')
  before = {path.name for path in plots.iterdir()}
  write_report(fake_findings.findings(('none', 'se'), pictures=1), tmp_path)
  after = {path.name for path in plots.iterdir()}
  assert 'channels_1_cbam.png' in before - after and 'channels_1_se.png' in after - before
  assert (plots / 'my_own.png').read_bytes() == b'mine'


def test_another_task_has_words_and_columns_of_its_own(tmp_path, monkeypatch):
  monkeypatch.setattr(style, 'DPI', 40)
  words = Wording(
    quality='overlap',
    best=Title('mean IoU', ('miou_mean', 'miou_spread')),
    best_in_full='mean IoU',
    beside={},
    further={'pixels': Title('pixels', ('pixels', 'pixels_spread'))},
    achieves='has a mean IoU of {value} % on {images} test images',
    note='Pixels: share of the pixels that are classified correctly.',
  )
  own = parts.Pages(words, scores=lambda _: [], further=lambda _: [])
  monkeypatch.setitem(pages._PAGES, 'segmentation', own)
  found = fake_findings.findings(('none', 'se'), pictures=1)
  variants = [
    dataclasses.replace(
      v,
      performance=dataclasses.replace(v.performance, further={'pixels': Mean(0.7, 0.1)}, arrays={}),
      runs=[dataclasses.replace(run, scores={'miou': 0.5}, curves={}) for run in v.runs],
    )
    for v in found.variants
  ]
  task = found.task._replace(name='segmentation', best='miou')
  write_report(dataclasses.replace(found, task=task, variants=variants), tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert not re.search('top-?[15]|ccurac|onfusion', text)
  assert 'The baseline, none, has a mean IoU of 90.12 % on' in text
  assert '## Overlap' in text and '| 70.00 (± 10.00) |' in text
  with open(tmp_path / 'results.csv', newline='') as file:
    (row, _) = csv.DictReader(file)
  assert list(row)[:4] == ['variant', 'seeds', 'miou_mean', 'miou_spread']
  assert float(row['pixels']) == 0.7


def test_a_score_that_is_no_share_is_printed_without_percent(monkeypatch):
  words = Wording(
    quality='error',
    best=Title('mean error', ('error_mean', 'error_spread'), is_share=False, digits=3),
    best_in_full='mean error',
    beside={},
    further={},
    achieves='has a mean error of {value} on {images} test images',
    note='',
  )
  own = parts.Pages(words, scores=lambda _: [], further=lambda _: [])
  monkeypatch.setitem(pages._PAGES, 'regression', own)
  found = fake_findings.findings(('none', 'se'), pictures=1)
  task = found.task._replace(name='regression', best='error', higher_is_better=False)
  found = dataclasses.replace(found, task=task)
  said = [*answer(found), *notes(found)]
  assert (
    'The baseline, none, has a mean error of 0.901 on 2\u202f000 test images (3 seeds).' in said
  )
  assert not any('point' in line for line in said if '80 % power' in line)
  for table in (results.summary(found), results.performance(found)):
    assert 'difference' in [column.title for column in table.columns]
  with style.drawing(lettering(found.class_names).families):
    (drawn, *_) = pareto.plots(found)
  lowest = min(found.variants, key=lambda v: v.performance.best.value)
  assert lowest.name in drawn.alt.partition('On the Pareto front:')[2]
