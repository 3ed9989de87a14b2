"""What people put into a folder of images: it is used, or reported as skipped."""

import os
import pathlib
import shutil
import sys
import unicodedata

import jax
import numpy as np
import pytest
from fake_catalog import encode

from attn_flax import data
from attn_flax.commands.images import find_images
from attn_flax.data import progress
from attn_flax.data.sources.folder import layout, listing
from attn_flax.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def root(tmp_path):
  return tmp_path / 'images'


def put(root, *names, side=32):
  """Writes images of noise, each of its own; returns the root."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (side, side, 3), np.uint8)
    path.write_bytes(encode(pixels))
  return root


def some(split, classes=('cats', 'dogs'), count=3):
  return [f'{split}/{name}/{i}.png' for name in classes for i in range(count)]


def load(root, **arguments):
  return data.load('folder', data_dir=str(root), **arguments)


def names_of(split, root):
  layout_ = layout.read_layout(str(root), 0)
  return [name for names in layout_.splits[split].values() for name in names]


# Names of splits.


@pytest.mark.parametrize('split', layout.FOLDERS)
def test_a_split_is_found_by_any_of_its_names_in_any_case(root, split, capsys):
  for name in [*layout.FOLDERS[split], *map(str.title, layout.FOLDERS[split])]:
    here = root / name
    folders = {'train': 'train', 'validation': 'val', 'test': 'test'} | {split: name}
    put(here, *(path for folder in folders.values() for path in some(folder)))
    dataset = load(here)
    assert dataset.spec.splits == {'train': 6, 'validation': 6, 'test': 6}
    assert f'{split} 6 ({name}/)' in capsys.readouterr().err


@pytest.mark.parametrize(
  'names', [('val', 'valid'), ('Val', 'val'), ('test', 'testing'), ('train', 'Training')]
)
def test_two_folders_of_one_split_are_refused(root, names):
  put(root, *some('train'), *(path for name in names for path in some(name)))
  with pytest.raises(UserError, match='holds both .* and .*: keep one of them'):
    load(root)


def test_what_is_beside_the_splits_is_named(root, capsys):
  put(root, *some('train', count=40), *some('vaild'), *some('unlabeled'))
  (root / 'README.txt').touch()
  (root / 'val').touch()
  load(root)
  err = capsys.readouterr().err
  assert '4 outside the splits (README.txt, unlabeled/, vaild/, ...)' in err
  assert 'cut off from train/' in err and err.count('\n') == 1


def test_what_is_beside_the_classes_is_named(root, capsys):
  put(root, *some('train'), *some('val'), *some('test'), 'train/loose.png', 'test/loose.png')
  load(root)
  err = capsys.readouterr().err
  assert '2 outside the classes (test/loose.png, train/loose.png)' in err


def test_a_folder_of_which_all_is_used(root, capsys):
  put(root, *some('train'), *some('val'), *some('test', count=2))
  load(root)
  assert capsys.readouterr().err == (
    f'{root}: 2 classes; images: train 6 (train/), validation 6 (val/), test 4 (test/); '
    "32 x 32 pixels; skipped: nothing; normalized by ImageNet's mean and deviation, "
    '0.485 0.456 0.406 and 0.229 0.224 0.225 (data.normalize=dataset)\n'
  )
  load(root)  # As a study does for each of its runs.
  assert capsys.readouterr().err == ''


# Links.


def test_links_to_folders_and_files_are_followed(root, tmp_path):
  put(tmp_path / 'far', *some('all'), 'more/1.png', 'test/cats/1.png', 'test/dogs/1.png')
  put(root, *some('train'), *some('val'))
  (root / 'test').symlink_to(tmp_path / 'far/test')
  (root / 'train/foxes').symlink_to(tmp_path / 'far/all/cats')
  (root / 'train/cats/more').symlink_to(tmp_path / 'far/more')
  (root / 'train/dogs/link.png').symlink_to(tmp_path / 'far/more/1.png')
  dataset = load(root)
  assert dataset.class_names == ('cats', 'dogs', 'foxes')
  assert dataset.spec.splits == {'train': 3 + 1 + 3 + 1 + 3, 'validation': 6, 'test': 2}
  assert 'train/cats/more/1.png' in names_of('train', root)
  assert len(find_images([str(root / 'train/cats')])) == 4


def test_a_folder_is_listed_once_and_by_its_path_without_links(root, capsys):
  put(root, *some('train'), 'train/cats/more/1.png', *some('val'), *some('test'))
  (root / 'train/cats/again').symlink_to(root / 'train/cats/more')
  (root / 'train/cats/more/up').symlink_to(root / 'train')
  (root / 'train/dogs/self').symlink_to(root / 'train/dogs')
  os.symlink('loop.png', root / 'train/dogs/loop.png')
  found = listing.list_files(root / 'train/cats')
  assert 'more/1.png' in found.files and 'again/1.png' not in found.files
  assert sorted(found.passed_over[listing.AGAIN])[0] == 'again'
  with pytest.raises(UserError, match='train/dogs/loop.png: it cannot be read'):
    load(root)
  (root / 'train/dogs/loop.png').unlink()
  (root / 'train/cats/more/up').unlink()
  assert load(root).spec.splits['train'] == 7
  again = '2 linked but already listed (train/cats/again, train/dogs/self)'
  assert again in capsys.readouterr().err
  assert len(find_images([str(root / 'train/cats')])) == 4
  assert '1 linked but already listed (again)' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['val', 'train/foxes'])
def test_a_folder_that_is_a_link_to_nothing_is_refused(root, name):
  put(root, *some('train'))
  (root / name).symlink_to(root / 'nowhere')
  with pytest.raises(UserError, match=f'{name}. is a broken link: repair or remove it'):
    load(root)


def test_a_folder_that_cannot_be_read_is_refused(root, monkeypatch):
  put(root, *some('train'), 'train/cats/secret/1.png')
  scandir = os.scandir

  def refuse(path):
    if pathlib.Path(path).name == 'secret':
      raise PermissionError(13, 'Permission denied')
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  for call in (lambda: load(root), lambda: find_images([str(root)])):
    with pytest.raises(UserError, match=r"secret' cannot be read \(Permission denied\)"):
      call()


# Hidden and system files.

JUNK = ['.git/1.png', '.x.png', '__MACOSX/1.png', '@eaDir/a/1.png', 'Thumbs.db', 'lost+found/1.png']


def test_hidden_and_system_files_are_passed_over_everywhere_by_one_rule(root, capsys):
  used = [*some('train'), *some('val'), *some('test')]
  put(root, *used)
  for place in ('.', 'train', 'train/cats', 'val/dogs'):
    put(root / place, *JUNK)
  dataset = load(root)
  assert dataset.class_names == ('cats', 'dogs')
  assert sum(dataset.spec.splits.values()) == len(used)
  err = capsys.readouterr().err
  assert f'{4 * len(JUNK)} hidden or system (.git, .x.png, ' in err
  for folder in (root, root / 'train/cats'):
    found = find_images([str(folder)])
    assert [str(path.relative_to(root)) for path in found] == [
      name for name in sorted(used) if (root / name).is_relative_to(folder)
    ]
    assert f'skipped in {folder}: ' in capsys.readouterr().err
  # A hidden folder is read if it is named.
  assert len(find_images([str(root / '.git')])) == 1
  assert len(find_images([str(root / '.x.png')])) == 1


# Classes.


@pytest.mark.parametrize('split', ['val', 'test'])
def test_a_split_without_one_of_the_classes_is_used_and_that_is_said(root, split, capsys):
  classes = ('cats', 'dogs', 'foxes')
  other = {'val': 'test', 'test': 'val'}[split]
  put(root, *some('train', classes), *some(other, classes), *some(split, ('cats', 'foxes')))
  name = {'val': 'validation', 'test': 'test'}[split]
  found = load(root).splits[name]
  assert found.label.tolist() == [0] * 3 + [2] * 3
  warning = (
    f"warning: the {name} split, in {root}/{split}, has no images of 1 of 3 classes ('dogs')"
  )
  assert warning in capsys.readouterr().err.splitlines()


FORMS = [unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD')]


@pytest.mark.parametrize(('train', 'other'), [FORMS, FORMS[::-1]])
def test_a_class_has_one_name_in_any_unicode_form(root, train, other):
  put(root, *some('train', (train, 'dogs')), *some('val', (other, 'dogs')), *some('test', (other,)))
  dataset = load(root)
  assert dataset.class_names == (train, 'dogs')
  assert dataset.splits['validation'].label.tolist() == [0] * 3 + [1] * 3
  assert dataset.splits['test'].label.tolist() == [0] * 3


def test_two_unicode_forms_of_a_class_are_one_class(root, capsys):
  put(
    root, *some('train', (*FORMS, 'dogs')), *some('val', (*FORMS, 'dogs'), 2), *some('test', FORMS)
  )
  dataset = load(root)
  assert dataset.class_names == (FORMS[0], 'dogs')
  assert dataset.spec.splits == {'train': 9, 'validation': 6, 'test': 6}
  err = capsys.readouterr().err
  assert "has 2 folders 'café' that differ only in their Unicode form; they are one class" in err


def test_classes_that_differ_in_case_alone_are_told(root, capsys):
  put(root, *some('train', ('Cat', 'cat')), *some('val', ('Cat', 'cat')), *some('test', ('cat',)))
  assert load(root).spec.num_classes == 2
  assert f"the classes 'Cat' and 'cat' of {root}/train differ only in case" in (
    capsys.readouterr().err
  )
  put(root, 'val/CAT/1.png')
  with pytest.raises(UserError, match="'CAT' that train lacks; did you mean 'Cat'"):
    load(root)


# Many files.


def test_many_broken_images_are_folded(root, capsys):
  put(root, *some('train', count=20), *some('val'), *some('test'))
  for i in range(12):
    (root / f'train/cats/{i}.png').write_bytes(b'')
  load(root, max_bad=12)
  lines = [line for line in capsys.readouterr().err.splitlines() if 'skipped ' in line]
  assert len(lines) == 6 and lines[-1] == f'warning: skipped 12 broken images of 52 in {root}'


def test_the_line_counts_broken_images_that_are_left_out(root, capsys):
  put(root, *some('train', count=8), *some('val'), *some('test'))
  (root / 'train/cats/1.png').write_bytes(b'')
  load(root, max_bad=1)
  line = capsys.readouterr().err.splitlines()[-1]
  assert 'skipped: 1 broken (train/cats/1.png);' in line


def links_of(root, capsys):
  load(root)
  return [line for line in capsys.readouterr().err.splitlines() if 'links in' in line]


def test_one_warning_names_folders_that_are_one_by_links(root, capsys):
  put(root, *some('train'), *some('val'), *some('test'))
  assert not links_of(root, capsys)
  (root / 'train/kitty').symlink_to('cats')
  (line,) = links_of(root, capsys)
  assert line == (
    f'warning: links in {root} lead to the same folder (train/cats = train/kitty), whose images '
    'count several times'
  )
  (root / 'train/kitty').unlink()
  shutil.rmtree(root / 'val')
  (root / 'val').symlink_to('train')
  (line,) = links_of(root, capsys)
  assert '(train = val)' in line


def test_a_split_to_be_scored_may_be_alone(root, capsys):
  put(root, *some('test'), *some('val'))
  with pytest.raises(UserError, match='has no folder train .it holds test, val.'):
    load(root)
  dataset = load(root, alone='test')
  assert list(dataset.splits) == ['test'] and dataset.class_names == ('cats', 'dogs')
  assert 'images: test ' in capsys.readouterr().err
  with pytest.raises(UserError, match='to score a run, train/<class>/ is enough'):
    load(root, alone='train')


def test_each_folder_is_read_once(root, monkeypatch):
  put(root, *some('train'), *some('val'), *some('test'))
  read = []
  scandir = os.scandir
  monkeypatch.setattr(os, 'scandir', lambda path: read.append(str(path)) or scandir(path))
  load(root)
  assert len(read) == len(set(read)) == 1 + 3 + 6


def test_long_work_is_told(root, monkeypatch, capsys):
  """By lines where stderr is not a terminal: for listing, checking, reading and measuring."""
  put(root, *some('train', count=20), *some('val'), *some('test'))
  monkeypatch.setattr(progress, '_QUIET_S', 0)
  load(root, normalize='measured')
  err = capsys.readouterr().err
  assert f'listing {root}: 52 files' in err and f'checking {root}: 52 of 52 files' in err
  assert 'reading train images: 40 of 40 images' in err
  assert 'measuring the training images: 40 of 40 images' in err


def test_a_terminal_shows_a_bar(monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  with progress.progress('checking /images', 2) as advance:
    advance(2)
  assert 'checking /images:   0%|' in capsys.readouterr().err


def test_of_several_processes_the_first_one_speaks(monkeypatch, capsys):
  for process in (0, 1):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    progress.say(f'/images as process {process} finds them')
  assert capsys.readouterr().err == '/images as process 0 finds them\n'


def test_names_that_are_no_text_are_told_in_one_line(root, capsysbinary):
  put(root, *some('train'), *some('val'), *some('test'), 'a\nb/1.png')
  (root / 'val' / os.fsdecode(b'\xff')).touch()
  load(root)
  (line,) = capsysbinary.readouterr().err.splitlines()
  assert rb'(a\nb/), 1 outside the classes (val/\udcff)' in line


def test_no_home_is_no_mistake(root, monkeypatch):
  def fail():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setattr(pathlib.Path, 'home', fail)
  assert load(put(root, *some('train'), *some('val'), *some('test'))).spec.num_classes == 2
