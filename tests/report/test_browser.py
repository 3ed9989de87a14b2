"""The report in a browser: nothing overflows, images load, tables sort, and no request is made."""

import html
import json
import re
import shutil
import subprocess

import fake_findings
import pytest

from attn_flax.report.figures import style
from attn_flax.report.write import write_report

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), ''
)
pytestmark = pytest.mark.skipif(not BROWSER, reason='no Chromium is installed')
WIDTHS = (360, 390, 768, 1280, 1400)

# Runs inside the report, and sends the outcome to the page around it, which has another origin.
CHECKS = """
const refused = [];
document.addEventListener('securitypolicyviolation', event => refused.push(event.blockedURI));
addEventListener('load', () => {
  const inside = (part, box) => part.getBoundingClientRect().right
    <= box.getBoundingClientRect().right;
  const judged = [...document.querySelectorAll('table')]
    .filter(one => one.tHead.rows[0].cells[1].textContent.trim() === 'verdict');
  const answer = document.querySelector('#answer table');
  const table = document.querySelector('#accuracy-section table');
  const head = table.tHead.rows[0].cells[3];
  const column = () => [...table.tBodies[0].rows].map(row => Number(row.cells[3].dataset.key));
  const sorted = [];
  for (const _ of [0, 1]) {
    head.querySelector('button').click();
    sorted.push([head.ariaSort, column()]);
  }
  const difference = table.tHead.rows[0].cells[5];
  difference.querySelector('button').click();
  parent.postMessage({
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    images: [...document.images].map(image => image.naturalWidth),
    cut: judged.filter(
      one => !inside(one.querySelector('tbody td'), one.closest('.scroll'))).length,
    judged: judged.length,
    answer: inside(answer, answer.closest('.scroll')),
    shrunk: [...document.querySelectorAll('.card')].filter(card => {
      const image = card.querySelector('img');
      return image.clientWidth < .65 * image.width && !card.classList.contains('redrawn')
        || card.classList.contains('redrawn') && card.scrollWidth > card.clientWidth;
    }).length,
    folded: [...document.querySelectorAll('details')].map(fold => fold.open),
    sorted,
    last: [...table.tBodies[0].rows].at(-1).cells[5].textContent,
    buttons: [...document.querySelectorAll('thead th')].every(th => th.querySelector('button')),
    requests: performance.getEntriesByType('resource')
      .map(entry => entry.name).filter(name => !name.startsWith('data:')),
    refused,
    paper: getComputedStyle(document.body).backgroundColor,
    cards: [...document.querySelectorAll('.card')].map(
      card => getComputedStyle(card).backgroundColor),
    plain: [...document.querySelectorAll('.plain img')].map(
      image => getComputedStyle(image).filter + getComputedStyle(image).mixBlendMode),
    nights: [...document.querySelectorAll('.layered')].map(
      card => getComputedStyle(card.querySelector('.night')).display),
    wide: [...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth),
  }, '*');
});
"""
FRAMES = """
<!DOCTYPE html><body><pre></pre><script>
const heard = [];
addEventListener('message', event => {
  heard.push(event.data);
  document.querySelector('pre').textContent = JSON.stringify(heard);
});
</script>
"""


@pytest.fixture(scope='module')
def heard(tmp_path_factory):
  folder = tmp_path_factory.mktemp('browser')
  names = ('none', 'se', fake_findings.PIPE, fake_findings.SCRIPT)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(style, 'DPI', 72)
    write_report(fake_findings.findings(names, pictures=1), folder)
  text = (folder / 'report.html').read_text()
  checked = text.replace('<head>', f'<head><script>{CHECKS}</script>', 1)
  (folder / 'checked.html').write_text(checked)
  frame = '<iframe src="checked.html" width="{}" height="800" style="border:0"></iframe>'
  (folder / 'frames.html').write_text(FRAMES + ''.join(map(frame.format, WIDTHS)))
  command = [
    BROWSER,
    '--headless=new',
    '--no-sandbox',  # Chromium does not start with a sandbox as root.
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--host-resolver-rules=MAP * ~NOTFOUND',
    '--blink-settings=preferredColorScheme=0',  # Dark.
    '--virtual-time-budget=20000',
    f'--user-data-dir={folder / "profile"}',
    '--dump-dom',
    (folder / 'frames.html').as_uri(),
  ]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
  outcome = json.loads(html.unescape(re.search('<pre>(.*)</pre>', done.stdout)[1]))
  assert len(outcome) == len(WIDTHS), done.stderr
  return {found['inner']: found for found in outcome}


def test_the_page_is_no_wider_than_its_window(heard):
  assert set(heard) == set(WIDTHS)
  for found in heard.values():
    assert found['scroll'] <= found['inner']
  assert heard[360]['wide']  # Wide tables scroll in their own boxes.


def test_images_load_and_no_request_leaves(heard):
  for found in heard.values():
    assert len(found['images']) > 8 and min(found['images']) > 0
    assert found['requests'] == found['refused'] == []


def test_tables_sort_by_the_buttons_of_their_heads(heard):
  for found in heard.values():
    (up, rising), (down, falling) = found['sorted']
    assert (up, down) == ('ascending', 'descending')
    assert rising == sorted(rising) and falling == rising[::-1] and len(set(rising)) == 4
    assert found['last'] == 'n/a'
    assert found['buttons']


def test_verdicts_are_seen_at_every_width(heard):
  for found in heard.values():
    assert found['judged'] == 9 and found['cut'] == 0
    # The small table fits, except on the smallest phone, where its last column is scrolled to.
    assert found['answer'] or found['inner'] == 360


def test_pictures_are_redrawn_or_scroll_before_they_cannot_be_read(heard):
  for found in heard.values():
    assert found['shrunk'] == 0


def test_details_are_folded(heard):
  for found in heard.values():
    assert found['folded'] == [False, False]


def test_dark_pages_have_no_white_cards(heard):
  for found in heard.values():
    assert max(map(int, re.findall(r'\d+', found['paper']))) < 64
    assert set(found['cards']) == {'rgba(0, 0, 0, 0)'}
    assert set(found['plain']) == {'invert(1) hue-rotate(180deg)screen'}
    assert len(found['nights']) > 4 and set(found['nights']) == {'block'}
