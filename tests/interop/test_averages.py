"""Of several networks in a file, the average is read, or what is read instead is said."""

import numpy as np
import pytest
import tiny_torch

from attn_flax import UserError, from_torch

PLAIN = {name: value for name, value in tiny_torch.weights().items() if '.se.' not in name}
AVERAGE = {name: value + np.float32(1) for name, value in PLAIN.items()}


def _below(prefix, state):
  return {prefix + name: value for name, value in state.items()}


def _loaded(state):
  """The value of the head and of the stem, 1 in the raw weights and 2 in the average."""
  variables = from_torch(state)[1]
  assert (
    variables['params']['stem_conv']['kernel'] == variables['params']['head']['bias'][0]
  ).all()
  return float(variables['params']['head']['kernel'][0, 0])


@pytest.mark.parametrize(
  'average', ['ema_model.', 'model_ema.module.', 'ema.', 'swa_model.module.']
)
def test_an_average_beside_the_weights_is_taken(average, capsys):
  state = {**_below('model.', PLAIN), **_below(average, AVERAGE), 'n_averaged': np.int64(3)}
  assert _loaded(state) == 2
  text = capsys.readouterr().err
  assert text == f"the weights below {average!r} are read, not those below 'model.'\n"


@pytest.mark.parametrize(
  ('raw', 'average'),
  [
    ('state_dict', 'state_dict_ema'),
    ('state_dict', 'ema_state_dict'),
    ('state_dict', 'swa_state_dict'),
    ('model', 'model_ema'),
    ('model', 'swa_model'),
    ('model', 'averaged_model'),
    ('model', 'model_avg'),
    ('net', 'EMA'),
    ('student', 'teacher'),
    ('online_network', 'target_network_ema'),
  ],
)
@pytest.mark.parametrize('beside', [{}, {'n_averaged': np.int64(3)}])
def test_an_entry_of_averages_is_taken(raw, average, beside):
  state = {raw: PLAIN, average: {**_below('module.', AVERAGE), **beside}}
  assert (
    _loaded({**state, 'epoch': 3, 'optimizer': {'state': {0: {'exp_avg': np.ones((8, 3))}}}}) == 2
  )


def test_each_network_has_its_own_head():
  state = {name.replace('fc.', 'head.'): value for name, value in PLAIN.items()}
  average = {name.replace('fc.', 'head.'): value for name, value in AVERAGE.items()}

  def wrapped(state):
    return {n if n.startswith('head.') else f'net.{n}': value for n, value in state.items()}

  assert _loaded({'state_dict': wrapped(state), 'state_dict_ema': wrapped(average)}) == 2


@pytest.mark.parametrize(
  'average',
  [
    {'decay': 0.99, 'num_updates': 3, 'shadow_params': list(AVERAGE.values())},
    {f'{name.replace(".", "")}': value for name, value in AVERAGE.items()},
  ],
)
def test_an_average_without_the_names_of_layers_is_said_to_be_unread(average, capsys):
  assert _loaded({'model': PLAIN, 'ema': average}) == 1
  text = capsys.readouterr().err
  assert "warning: 'ema." in text and "raw weights below 'model.' are read" in text
  assert text.count('\n') == 1


def test_optimizers_hold_no_average(capsys):
  moments = {'state': {i: {'exp_avg': value} for i, value in enumerate(AVERAGE.values())}}
  assert _loaded({'model': PLAIN, 'optimizer': moments, 'ema': None}) == 1
  assert not capsys.readouterr().err


def test_an_average_of_parameters_alone_has_the_statistics_of_its_network():
  average = {name: value for name, value in AVERAGE.items() if '.running_' not in name}
  variables = from_torch({'model': _below('module.', PLAIN), 'ema': {'shadow': average}})[1]
  assert (variables['params']['stem_norm']['scale'] == 2).all()
  assert (variables['batch_stats']['stem_norm']['mean'] == 1).all()


def test_the_teacher_of_another_network_is_no_average():
  larger = {**AVERAGE, 'layer1.0.conv2.weight': np.ones((8, 8, 1, 1), np.float32)}
  with pytest.raises(UserError, match=r"below 'student\.' and 'teacher\.'"):
    from_torch({'student': PLAIN, 'teacher': larger})


def test_the_query_encoder_of_a_contrastive_network_is_taken():
  state = {**_below('module.encoder_q.', PLAIN), **_below('module.encoder_k.', AVERAGE)}
  state |= {'module.queue': np.ones((3, 4)), 'module.queue_ptr': np.ones(1)}
  assert _loaded(state) == 1


@pytest.mark.parametrize('entry', ['state_dict', 'model', 'weights'])
def test_the_usual_entry_is_taken_and_said(entry, capsys):
  assert _loaded({'previous': AVERAGE, entry: PLAIN}) == 1
  assert "not those below 'previous.'" in capsys.readouterr().err


def test_two_networks_are_refused_where_neither_is_the_average():
  with pytest.raises(UserError, match=r"below 'first\.' and 'second\.'"):
    from_torch({**_below('first.', PLAIN), **_below('second.', AVERAGE)})


def test_two_averages_are_refused():
  with pytest.raises(UserError, match=r"below 'ema\.' and 'swa\.'"):
    from_torch({'model': PLAIN, 'ema': AVERAGE, 'swa': AVERAGE})
