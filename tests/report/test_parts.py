"""The parts of the report one by one: scales, fronts, bands, numbers, names and escapes."""

import dataclasses
import io

import fake_findings
import numpy as np
from fake_findings import PIPE, SCRIPT
from PIL import Image

from attn_flax.report import answer as answers
from attn_flax.report import formats, html, markdown, parts, published
from attn_flax.report.answer import answer
from attn_flax.report.figures import channels, pareto, pictures, plots, scales, style
from attn_flax.report.figures import classification as figures
from attn_flax.report.tables import cells, classification, results
from attn_flax.study.explanations import Gates
from attn_flax.study.findings import Run


def test_published_rows_are_plausible():
  rows = published.rows(['se', 'eca', 'cbam', 'bam', 'aa', 'sasa'])
  assert 20 <= len(rows) <= 40
  for row in rows:
    assert row['dataset'] in ('ImageNet', 'CIFAR-100')
    assert 65 < float(row['baseline_top1']) < float(row['top1']) < 90
    assert row['source'].startswith('https://arxiv.org/abs/')
  assert published.rows(['none']) == []


def test_too_few_seeds_are_said():
  found = fake_findings.findings(('none', 'se'), seeds=2, pictures=1)
  assert 'Not enough seeds for a verdict on se' in ' '.join(answer(found))
  assert results.performance(found).rows[1][1].text == 'not enough seeds'


def test_variants_whose_differences_the_study_cannot_find_are_said():
  found = fake_findings.findings(('none', 'se', 'eca'), pictures=1)
  se = next(v for v in found.variants if v.name == 'se')
  blind = dataclasses.replace(se.performance, detectable=None)
  variants = [dataclasses.replace(v, performance=blind) if v is se else v for v in found.variants]
  text = ' '.join(answer(dataclasses.replace(found, variants=variants)))
  assert 'with 80 % power is 1.23 points; for se it finds none, however large.' in text
  variants = [v for v in variants if v.name != 'eca']
  text = ' '.join(answer(dataclasses.replace(found, variants=variants)))
  assert 'With 80 % power, the study finds no difference of se.' in text


def test_every_network_is_said_only_of_all_of_them(monkeypatch):
  found = fake_findings.findings(('none', 'se', 'eca'), pictures=1)
  monkeypatch.setattr(answers, 'beaten', lambda score: (['random map'], []))
  assert 'better than all its controls for every network' in ' '.join(answer(found))
  variants = [
    dataclasses.replace(v, explanations=None) if v.name == 'eca' else v for v in found.variants
  ]
  text = ' '.join(answer(dataclasses.replace(found, variants=variants)))
  assert 'better than all its controls for none and se' in text


def test_an_empty_map_is_flagged(monkeypatch):
  written = []
  monkeypatch.setattr(
    pictures.Axes, 'text', lambda self, x, y, text, **_: written.append(text), raising=True
  )
  small = fake_findings.findings(('none', 'se'), pictures=2)
  with style.drawing():
    assert pictures.cams(small) is not None
  assert written == ['empty', 'empty']  # The second image, in both variants.
  assert pictures.is_blank(np.zeros((4, 4))) and pictures.is_blank(np.full((4, 4), np.nan))
  assert not pictures.is_blank(np.eye(4))


def test_maps_keep_their_shades():
  """In a palette of few colors, the color bar would have steps."""
  found = fake_findings.findings(('none', 'cbam'), pictures=2)
  with style.drawing():
    made = [pictures.cams(found), *pictures.gates(found)]
  assert len(made) == 2
  for illustration in made:
    pixels = np.asarray(Image.open(io.BytesIO(illustration.png)).convert('RGB'))
    bars = pixels[:, -pixels.shape[1] // 8 :].reshape(-1, 3)
    colored = bars[np.ptp(bars, axis=1) > 40]
    assert len(np.unique(colored, axis=0)) > 100


def test_attention_is_drawn_in_multiples_of_the_uniform_weight():
  def gates(side, query_weight):
    received = np.full((5, side, side), 1 / side**2)
    return Gates(
      spatial={'stage2_block1/conv_attention/received': received, 'stage3/spatial_gate': received},
      attention={'stage2_block1/conv_attention': received * query_weight},
    )

  for side in (4, 8):
    drawn = pictures._drawn(gates(side, 3.0))
    (received,), (attention,) = drawn['received'].values(), drawn['attention'].values()
    assert len(received) == pictures.MOST_GATED
    np.testing.assert_allclose(received, 1)
    np.testing.assert_allclose(attention, 3)
    np.testing.assert_allclose(drawn['spatial_gate']['stage3/spatial_gate'], 1 / side**2)


def test_classes_without_images_leave_the_curves_as_they_are():
  found = fake_findings.findings(('none', 'se'), pictures=1)
  gates = found.variants[1].pictured.gates
  fourth = np.arange(10)[:, None] == 4
  missing = {path: np.where(fourth, np.nan, gate) for path, gate in gates.channel.items()}
  known, of_known = channels._of_known(missing)
  assert list(known) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
  assert all(np.isfinite(gate).all() and len(gate) == 9 for gate in of_known.values())
  assert channels._of_known({'stage1/channel_gate': np.full((3, 8), np.nan)}) is None
  nothing = Gates(channel={path: np.full_like(v, np.nan) for path, v in gates.channel.items()})
  for replaced, count in ((Gates(channel=missing), 1), (nothing, 0)):
    picture = dataclasses.replace(found.variants[1].pictured, gates=replaced)
    variants = [found.variants[0], dataclasses.replace(found.variants[1], pictured=picture)]
    with style.drawing():
      assert len(channels.plots(dataclasses.replace(found, variants=variants))) == count


def test_the_legend_of_the_front_names_every_variant(monkeypatch):
  """With the marker of its point: filled on the front, else white inside."""
  found = fake_findings.findings(('none', 'se', 'eca', 'cbam'), pictures=1)
  canvases = []
  finish = style.finish

  def spy(canvas, name, *texts):
    canvases.append((name, canvas))
    return finish(canvas, name, *texts)

  monkeypatch.setattr(style, 'finish', spy)
  with style.drawing():
    assert len(pareto.plots(found)) == 3
  assert [name for name, _ in canvases] == ['pareto_params', 'pareto_macs', 'pareto_step_ms']
  for _, canvas in canvases:
    (legend,), (ax,) = canvas.legends, canvas.axes
    assert [text.get_text() for text in legend.get_texts()] == ['none', 'se', 'eca', 'cbam']
    points = [bar.lines[0] for bar in ax.containers]
    for handle, point in zip(legend.legend_handles, points, strict=True):
      for read in ('get_color', 'get_marker', 'get_markerfacecolor'):
        assert getattr(handle, read)() == getattr(point, read)()
    assert legend.get_window_extent().y1 < ax.get_window_extent().y0


def test_one_scale_for_all():
  faint, strong = np.array([[0.0, 0.1]]), np.array([[0.5, 2.0]])
  assert scales.scale([faint, strong]) == (0.0, 2.0)
  assert scales.scale([strong], from_zero=True) == (0.0, 2.0)
  assert scales.scale([strong]) == (0.5, 2.0)
  low, high = scales.scale([np.zeros((2, 2))])
  assert low < high


def test_an_outlier_does_not_flood_the_scale():
  rng = np.random.default_rng(0)
  maps = rng.uniform(0.5, 1.5, (8, 16, 16))
  usual = scales.scale(maps)
  assert usual == (maps.min(), maps.max())
  assert scales.beyond(maps, usual).tolist() == [0, 0]
  maps[2, 3, 4] = 110  # A hundred times the other values, as the attention to one position may be.
  low, high = scales.scale(maps)
  assert low == usual[0] and usual[1] < high < 3
  np.testing.assert_allclose(scales.beyond(maps, (low, high)), [0, 1 / maps.size])
  # Each map has the same weight: a peak in a small map does not set the scale either.
  coarse = [np.full((4, 4), 1.0) for _ in range(3)]
  coarse[0][0, 0] = 110
  together = [*coarse, *(rng.uniform(0.5, 1.5, (64, 64)) for _ in range(3))]
  assert scales.scale(together)[1] < 4
  np.testing.assert_allclose(scales.beyond(together, scales.scale(together))[1], 1 / 96)
  # The same below zero; values that are not finite are ignored.
  low, high = scales.scale([-maps, np.full((2, 2), np.nan)])
  assert -3 < low and high == -usual[0]


def test_the_share_beyond_a_scale_is_said():
  found = fake_findings.findings(('none', fake_findings.PIPE), pictures=2)
  captions = []
  for factor in (1, 200):
    for maps in found.variants[1].pictured.gates.attention.values():
      maps[0, 2, 2] *= factor
    with style.drawing():
      (grid,) = pictures.gates(found)
    captions.append(grid.caption)
  assert 'beyond' not in captions[0]
  assert '% lies beyond the scale and has the color of its end.' in captions[1]


def pixels(png, mode='RGB'):
  return np.asarray(Image.open(io.BytesIO(png)).convert(mode)).astype(int)


def test_at_night_paper_and_words_are_dark_and_colors_keep_their_meaning():
  found = fake_findings.findings(('none', 'cbam'), pictures=1)
  with style.drawing():
    made = [pictures.cams(found), *pictures.gates(found), *figures.confusions(found)]
  for illustration in made:
    night = pixels(illustration.night, 'RGBA')
    covered = night[..., 3] == 255
    assert night.shape[:2] == pixels(illustration.png).shape[:2]
    paper = tuple(bytes.fromhex(style.NIGHT[1:]))
    assert tuple(night[0, 0, :3]) == paper and covered[0, 0]
    # The colors of maps and of their bars show through.
    colored = np.ptp(pixels(illustration.png), axis=-1) > 60
    assert colored.sum() > 1000 and not (covered & colored).any()
    # No white background is left.
    light = (pixels(illustration.png) > 250).all(-1) & ~covered
    assert light.mean() < 0.02
  with style.drawing():
    assert plots.differences(fake_findings.findings(('none', 'se'), pictures=1)).night == b''


def test_figures_have_a_form_for_phones():
  found = fake_findings.findings(('none', 'se'), pictures=1)
  with style.drawing():
    for draw in (plots.differences, plots.curves, plots.scores):
      made = draw(found)
      assert made.narrow.size[0] <= 330 < made.size[0]
      assert made.narrow.narrow is None


def test_no_word_of_a_figure_is_cut(monkeypatch):
  found = fake_findings.findings(('none', SCRIPT, 'a_rather_long_name_of_a_variant'), pictures=1)
  canvases = []
  finish = style.finish

  def spy(canvas, name, *texts, **options):
    made = finish(canvas, name, *texts, **options)
    canvases.append(canvas)
    return made

  monkeypatch.setattr(style, 'finish', spy)
  with style.drawing():
    plots.differences(found), plots.curves(found), plots.scores(found)
  assert len(canvases) == 6
  for canvas in canvases:
    for legend in canvas.legends:
      box = legend.get_window_extent()
      assert box.x0 >= -1 and box.x1 <= canvas.bbox.x1 + 1 and box.y0 >= -1
    for ax in canvas.axes:
      if ax.get_visible():
        box = ax.get_tightbbox()
        assert box.x0 >= -1 and box.x1 <= canvas.bbox.x1 + 1 and box.y0 >= -1


def test_every_overlay_of_a_row_has_the_same_scale(monkeypatch):
  drawn = []
  overlay = pictures.overlay

  def spy(ax, values, size, bounds):
    drawn.append((bounds, values.max()))
    return overlay(ax, values, size, bounds)

  monkeypatch.setattr(pictures, 'overlay', spy)
  found = fake_findings.findings(('none', 'se', 'eca'), pictures=1)
  with style.drawing():
    pictures.cams(found)
  assert len({bounds for bounds, _ in drawn}) == 1
  assert drawn[0][0] == (0.0, max(largest for _, largest in drawn))


def test_the_front():
  assert pareto.front([1, 2, 3, 4], [5, 4, 6, 6]) == [0, 2]
  assert pareto.front([2, 1], [1, 1]) == [1]
  assert pareto.front([1, 1], [1, 2]) == [1]


def test_bands_span_the_seeds():
  def run(seed, values):
    curve = [(float(i), {'loss': value}) for i, value in enumerate(values)]
    return Run('none', seed, '', '', curves={'train': curve})

  epochs, mean, low, high = plots.band([run(0, [1, 2, 3]), run(1, [3, 2])], 'train', 'loss')
  np.testing.assert_array_equal(epochs, [0, 1])
  np.testing.assert_array_equal([mean, low, high], [[2, 2], [1, 2], [3, 2]])
  assert plots.band([run(0, [1])], 'validation', 'loss') is None


def test_numbers_as_words():
  assert formats.points(-0.0141) == '−1.41' and formats.points(0.00001) == '0.00'
  assert formats.points(-0.00001) == '0.00' and formats.points(0.01) == '+1.00'
  assert formats.number(None, 2) == formats.number(float('nan'), 2) == 'n/a'
  assert formats.times(1.0) == '×1.00' and formats.times(1.0013) == '×1.0013'
  assert formats.large(25_557_032) == '25.557 M' and formats.large(87) == '87'
  assert formats.listing(['a']) == 'a' and formats.listing(['a', 'b', 'c']) == 'a, b and c'
  assert formats.one_line('a\n b') == 'a b' and formats.one_line('') == 'n/a'


def test_file_names_are_tame():
  assert style.file_name('gates', 3, SCRIPT) == 'gates_3_script_alert_1_script'
  assert style.file_name('confusion', 0, '../..') == 'confusion_0'
  assert not style.plain('_se').startswith('_')
  assert style.plain('a$b') == r'a\$b' and len(style.plain('x' * 99)) == 32


def test_markdown_escapes_its_markup():
  assert markdown.escape('a|b *c* [d] <e> `f` g_h _i_') == (
    r'a\|b \*c\* \[d\] &lt;e&gt; \`f\` g_h \_i\_'
  )
  assert markdown.escape('two\nlines') == 'two lines'


def test_many_classes_are_narrowed_to_those_that_differ():
  found = fake_findings.findings(('none', 'se'), pictures=1)
  usual = 9 * np.eye(50, dtype=int) + np.eye(50, k=1, dtype=int) + np.eye(50, k=-49, dtype=int)
  other = usual.copy()
  other[7, 7:9] = 2, 8
  variants = [
    dataclasses.replace(
      v, performance=dataclasses.replace(v.performance, arrays={'confusion': counts[None]})
    )
    for v, counts in zip(found.variants, (usual, other), strict=True)
  ]
  names = [f'class {k}' for k in range(50)]
  table = classification.per_class(dataclasses.replace(found, variants=variants, class_names=names))
  assert len(table.rows) == classification.LISTED_CLASSES
  assert 'class 7' in [row[0].text for row in table.rows]


def test_html_and_markdown_are_made_of_the_same_cells():
  cell = cells.Cell(PIPE, '<b>', {'x': 1.0}, 'none')
  column = cells.Column('*head*')
  table = cells.Table('t', 'Table', [column], [[cell]])
  section = parts.Section('s', 'Section', parts=[table])
  assert '| a\\|b (&lt;b&gt;) |' in markdown.render('title', [section])
  points, fold = parts.Points(['*one*', 'two']), parts.Fold('<more>', [table])
  folded = parts.Section('f', 'Folded', parts=[points, fold])
  text = markdown.render('title', [folded])
  assert '- \\*one\\*\n- two\n' in text
  assert '<details><summary>&lt;more&gt;</summary>\n\n### Table\n' in text
  assert text.index('| a\\|b') < text.index('</details>')
  text = html.render('title', [folded])
  assert '<li>*one*</li>' in text and '<summary>&lt;more&gt;</summary>' in text
  assert text.index('<details>') < text.index('data-key="1.0">a|b') < text.index('</details>')
  text = html.render('<title>', [section])
  assert 'data-key="1.0">a|b <small>&lt;b&gt;</small>' in text and '&lt;title&gt;' in text
