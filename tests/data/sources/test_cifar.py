"""CIFAR without TensorFlow: an archive of the same form, from a local server."""

import contextlib
import functools
import hashlib
import http.server
import io
import socket
import tarfile
import threading
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from attn_flax import data
from attn_flax.errors import UserError

# Images per file; the builders read five training files of CIFAR-10 and one of CIFAR-100.
COUNT = 8
KINDS = {
  'cifar10': dict(
    archive='cifar-10-binary.tar.gz',
    prefix='cifar-10-batches-bin/',
    train=[f'data_batch_{i}.bin' for i in range(1, 6)],
    test='test_batch.bin',
    names={'batches.meta.txt': 10},
  ),
  'cifar100': dict(
    archive='cifar-100-binary.tar.gz',
    prefix='cifar-100-binary/',
    train=['train.bin'],
    test='test.bin',
    names={'coarse_label_names.txt': 20, 'fine_label_names.txt': 100},
  ),
}


def make_archive(name, folder):
  """Writes an archive like the published one, of random images; returns its content.

  Returns:
    For 'train' and 'test': images [N, 32, 32, 3] and labels [N].
  """
  kind, rng, content = KINDS[name], np.random.default_rng(0), {}
  with tarfile.open(folder / kind['archive'], 'w:gz') as tar:

    def add(file, text):
      member = tarfile.TarInfo(kind['prefix'] + file)
      member.size = len(text)
      tar.addfile(member, io.BytesIO(text))

    for file, count in kind['names'].items():
      add(file, ''.join(f'{file[:4]} {i}\n' for i in range(count)).encode() + b'\n')
    for split, files in {'train': kind['train'], 'test': [kind['test']]}.items():
      images = rng.integers(0, 256, (COUNT * len(files), 32, 32, 3), np.uint8)
      labels = np.stack(
        [rng.integers(0, count, len(images)) for count in kind['names'].values()], 1
      )
      rows = np.concatenate(
        [labels.astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1
      )
      for i, file in enumerate(files):
        add(file, rows[i * COUNT : (i + 1) * COUNT].tobytes())
      content[split] = images, labels[:, -1]
  return content


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves a folder without writing a log."""

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving(folder):
  """The address of a server of a folder, as long as it runs; its `asked` lists the requests."""
  asked = []

  class Listening(Handler):
    def do_GET(self):
      asked.append(self.path)
      super().do_GET()

  server = http.server.ThreadingHTTPServer(
    ('127.0.0.1', 0), functools.partial(Listening, directory=str(folder))
  )
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_address[1]}', asked
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def redirect(monkeypatch, name, url, checksum, size):
  """Makes a builder ask `url` for its archive, and expect that checksum."""
  from attn_flax.data.sources.tfds import cifar

  monkeypatch.setenv('NO_PROXY', '127.0.0.1')
  cls = cifar.BUILDERS[name]
  facts = cls._cifar_info.fget
  infos = {
    url: tfds.download.checksums.UrlInfo(size=size, checksum=checksum, filename=url.split('/')[-1])
  }
  monkeypatch.setattr(cls, '_cifar_info', property(lambda self: facts(self)._replace(url=url)))
  monkeypatch.setattr(cls, 'url_infos', infos)


@pytest.fixture
def published(tmp_path, monkeypatch):
  """A function that serves a dataset's archive; it returns the content and the requests."""
  with contextlib.ExitStack() as stack:

    def publish(name, wrong=False):
      folder = tmp_path / 'server'
      folder.mkdir()
      content = make_archive(name, folder)
      address, asked = stack.enter_context(serving(folder))
      archive = folder / KINDS[name]['archive']
      digest = hashlib.sha256(archive.read_bytes()).hexdigest()
      checksum = digest[::-1] if wrong else digest
      redirect(monkeypatch, name, f'{address}/{archive.name}', checksum, archive.stat().st_size)
      return content, asked

    yield publish


@pytest.mark.parametrize('name', KINDS)
def test_downloaded_prepared_and_read(tmp_path, published, name, capfd):
  content, asked = published(name)
  folder = tmp_path / 'datasets'
  dataset = data.load(name, data_dir=str(folder), download=True)
  assert dataset.image_shape == (32, 32, 3) and dataset.spec.crop_padding == 4
  prefix = 'batc' if name == 'cifar10' else 'fine'
  assert dataset.class_names == tuple(f'{prefix} {i}' for i in range(dataset.spec.num_classes))
  count = len(content['train'][1])
  held_out = count - round(0.9 * count)
  assert {split: len(part) for split, part in dataset.splits.items()} == {
    'train': count - held_out,
    'validation': held_out,
    'test': COUNT,
  }

  # Every image once, with its label; which ones are held out follows the order of storage.
  def example(image, label):
    return image.tobytes(), int(label)

  expected = {split: set(map(example, *pair)) for split, pair in content.items()}
  found = {
    split: [example(*pair) for pair in zip(part.image, part.label, strict=True)]
    for split, part in dataset.splits.items()
  }
  assert set(found['train']) | set(found['validation']) == expected['train']
  assert len(set(found['train']) & set(found['validation'])) == 0
  assert set(found['test']) == expected['test']

  # In the standard place, where the stock builder finds ids that count the rows of the files.
  stock = tfds.builder(name, data_dir=folder, try_gcs=False)
  assert stock.is_prepared() and stock.data_path == folder / name / str(stock.version)
  for row in stock.as_data_source('train'):
    number = int(row['id'].decode().removeprefix('train_'))
    np.testing.assert_array_equal(row['image'], content['train'][0][number])
    assert row['label'] == content['train'][1][number]

  # There is no second download, and the first has left only the archive.
  assert len(asked) == 1
  data.load(name, data_dir=str(folder), download=True, splits=['test'])
  data.load(name, data_dir=str(folder), splits=['test'])
  assert len(asked) == 1
  assert not list(folder.rglob('*incomplete*'))
  assert capfd.readouterr().err.count('Downloading') == 1


def test_an_interrupted_preparation_downloads_no_second_time(tmp_path, published, monkeypatch):
  from attn_flax.data.sources.tfds import cifar

  _, asked = published('cifar10')
  records = cifar.Cifar10._records

  def failing(self, *arguments):
    yield from list(records(self, *arguments))[:3]
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(cifar.Cifar10, '_records', failing)
    data.load('cifar10', data_dir=str(tmp_path / 'datasets'), download=True)
  # As after a kill.
  (tmp_path / 'datasets/cifar10/incomplete.x_3.0.2').mkdir()
  dataset = data.load('cifar10', data_dir=str(tmp_path / 'datasets'), download=True)
  assert len(dataset.splits['test']) == COUNT and len(asked) == 1
  assert not list((tmp_path / 'datasets').rglob('incomplete*'))


def test_another_file_than_the_published_one_is_refused(tmp_path, published):
  _, asked = published('cifar10', wrong=True)
  for attempt in (1, 2):  # The file of the first download is not used by the second attempt.
    with pytest.raises(UserError, match='not the published file.*checksum'):
      data.load('cifar10', data_dir=str(tmp_path / 'datasets'), download=True)
    assert len(asked) == attempt
  assert not list((tmp_path / 'datasets').rglob('dataset_info.json'))


@pytest.mark.parametrize('name', KINDS)
def test_keys_ids_pixels_and_names_are_the_stock_builders(tmp_path, name, monkeypatch):
  """The order of storage follows from the keys."""
  from tensorflow_datasets.image_classification import cifar as stock_module

  from attn_flax.data.sources.tfds import cifar

  make_archive(name, tmp_path)
  archive = tmp_path / KINDS[name]['archive']
  with tarfile.open(archive) as tar:
    tar.extractall(tmp_path / 'extracted', filter='data')
  manager = types.SimpleNamespace(
    download_dir=tmp_path,
    download=lambda url: archive,
    download_and_extract=lambda url: tmp_path / 'extracted',
  )
  # Here the stock builder needs nothing of TensorFlow but its files.
  gfile = types.SimpleNamespace(GFile=open)
  monkeypatch.setattr(
    stock_module, 'tf', types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
  )
  own = cifar.BUILDERS[name](data_dir=tmp_path / 'own')
  stock = tfds.builder_cls(name)(data_dir=tmp_path / 'stock')
  found, expected = own._split_generators(manager), stock._split_generators(manager)
  assert list(found) == list(map(str, expected))
  for split in expected:
    pairs = list(zip(found[str(split)], expected[split], strict=True))
    assert len(pairs) == COUNT * (5 if name == 'cifar10' and split == 'train' else 1)
    for (key, example), (stock_key, stock_example) in pairs:
      assert key == stock_key and example.keys() == stock_example.keys()
      np.testing.assert_array_equal(np.asarray(example.pop('image')), stock_example.pop('image'))
      assert example == stock_example
  for label in own._cifar_info.label_keys:
    assert own.info.features[label].names == stock.info.features[label].names
  assert own.info.features.to_json() == stock.info.features.to_json()


def test_the_checksums_are_the_stock_builders():
  from attn_flax.data.sources.tfds import cifar

  for name in KINDS:
    cls, stock = cifar.BUILDERS[name], tfds.builder_cls(name)
    assert cls.url_infos == stock.url_infos and cls.VERSION == stock.VERSION
    url = cls._cifar_info.fget(cls).url
    assert len(cls.url_infos[url].checksum) == 64


def test_what_is_missing_on_the_server_and_a_server_that_is_gone(tmp_path, published, monkeypatch):
  published('cifar10')
  (tmp_path / 'server' / KINDS['cifar10']['archive']).unlink()
  with pytest.raises(UserError, match='could not be downloaded.*404'):
    data.load('cifar10', data_dir=str(tmp_path / 'datasets'), download=True)

  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))  # Bound, but nobody listens.
    url = f'http://127.0.0.1:{unused.getsockname()[1]}/file.tar.gz'
    redirect(monkeypatch, 'cifar10', url, 64 * '0', 1)
    with pytest.raises(UserError, match='cannot be reached.*downloads/manual'):
      data.load('cifar10', data_dir=str(tmp_path / 'other'), download=True)


def test_a_file_fetched_by_hand_is_taken(tmp_path, published):
  _, asked = published('cifar10')
  archive = tmp_path / 'server' / KINDS['cifar10']['archive']
  manual = tmp_path / 'datasets/downloads/manual'
  manual.mkdir(parents=True)
  archive.rename(manual / archive.name)
  dataset = data.load('cifar10', data_dir=str(tmp_path / 'datasets'), download=True)
  assert len(dataset.splits['test']) == COUNT and not asked


@pytest.mark.parametrize('name', KINDS)
def test_nothing_is_downloaded_unasked(tmp_path, name, monkeypatch):
  monkeypatch.setattr(socket.socket, 'connect', pytest.fail)
  with pytest.raises(UserError, match=f"'{name}' is not in .*--config.data.download=True"):
    data.load(name, data_dir=str(tmp_path))
  assert not list(tmp_path.iterdir())
