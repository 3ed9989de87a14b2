"""The committed example report is complete, and the README has its numbers."""

import csv
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
REPORT = ROOT / 'docs' / 'example_report'


@pytest.fixture(scope='module')
def results():
  with open(REPORT / 'results.csv', newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def readme():
  return (ROOT / 'README.md').read_text()


def percent(text, digits=1):
  return f'{100 * float(text):.{digits}f}'


def row_of(result):
  """The row of a variant in the README, made from `results.csv`."""
  difference = '—'
  if result['difference']:
    low, high = (f'{100 * float(result[f"difference_{end}"]):+.1f}' for end in ('low', 'high'))
    difference = f'{100 * float(result["difference"]):+.1f} [{low}, {high}]'
  cells = [
    f'`{result["variant"]}`',
    f'{percent(result["top1_mean"])} ± {percent(result["top1_spread"])}',
    difference,
    result['verdict'] or 'baseline',
    f'{int(result["params"]):,}',
    f'{float(result["macs"]) / 1e6:.1f}',
    f'{float(result["step_ratio"]):.2f}',
    f'{float(result["gradcam_energy_mask"]):.3f}',
    f'{float(result["gradcam_energy_mask_random_weights"]):.3f}',
  ]
  return '| ' + ' | '.join(cells) + ' |'


def test_the_table_of_the_readme_is_that_of_the_report(results, readme):
  for result in results:
    assert row_of(result) in readme, row_of(result)


def test_what_the_example_could_have_found_is_said(results, readme):
  found = [100 * float(row['detectable']) for row in results if row['detectable']]
  assert len(found) == 6
  assert f'would have to be {min(found):.0f} to {max(found):.0f} points' in ' '.join(readme.split())


def test_the_readme_shows_and_links_the_report(readme):
  assert '(docs/example_report/report.md)' in readme
  for picture in re.findall(r'\((docs/example_report/plots/\w+\.png)\)', readme):
    assert (ROOT / picture).is_file()
  assert 'docs/example_report/plots/' in readme


def test_the_example_is_the_quick_study(results):
  assert {row['variant'] for row in results} == {
    'resnet',
    'se',
    'eca',
    'cbam',
    'bam',
    'aa',
    'eca_cbam',
  }
  assert {row['seeds'] for row in results} == {'3'}
  assert all(row['gradcam_deletion'] and row['gradcam_road'] for row in results)


def test_the_report_is_whole():
  text = (REPORT / 'report.md').read_text()
  pictures = re.findall(r'\((plots/\w+\.png)\)', text)
  assert pictures and all((REPORT / picture).is_file() for picture in pictures)
  html = (REPORT / 'report.html').read_text()
  assert '</html>' in html and 'src="data:image/webp' in html
  assert len(html) < 2**20
  assert not re.search(r'(src|href)="(https?:)?//', html)
  # It shows no absolute paths of the machine that made it.
  assert not re.search(r'(?<![\w/.])/(tmp|home|root|work)/', text)


def test_the_speed_of_the_input_pipeline_is_that_of_its_table(readme):
  (path,) = (ROOT / 'benchmarks' / 'results').glob('input_pipeline-*.csv')
  with open(path, newline='') as file:
    rows = {row['what']: row for row in csv.DictReader(file)}
  text = ' '.join(readme.split())
  plain, more = (
    float(rows[what]['share_of_step'].rstrip('%'))
    for what in ('crop, flip', 'crop, flip, RandAugment, mixup')
  )
  assert f'augmentation takes {plain:.1f} % of a ResNet-20 step ({more:.1f} % with' in text
  pillow, faster = (
    rows[what]['images_per_second'] for what in ('Pillow', 'simplejpeg, resized by opencv')
  )
  assert f'crops {pillow} JPEGs a second and core' in text and f'would do {faster}.' in text
