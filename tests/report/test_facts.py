"""What a report says about networks, papers and conditions."""

import dataclasses

import fake_findings

from attn_flax.report import facts, published
from attn_flax.study.findings import Mechanism, Shares, Variant


def test_networks_are_described():
  cbam = Mechanism('cbam', 'branch', (1, 3), every=2, start='identity', fields={'ratio': 4})
  text = 'cbam at branch, stages 1, 3, every 2 blocks, start=identity, ratio=4'
  assert facts.mechanism(Variant('a', (), [cbam])) == text
  assert facts.mechanism(Variant('a', (), [])) == 'none'
  assert facts.mechanism(Variant('a', ())) == ''
  shares = {2: Shares(8, 8, 32)}
  assert facts.mechanism(Variant('a', (), [cbam], shares)) == (
    f'{text}; stage 2: 8 key and 8 value dimensions, 32 output channels'
  )


def test_own_maps_are_described():
  assert facts.own_map(()) == ''
  assert facts.own_map(('gate',)) == (
    'spatial gate, mean over the blocks of the last stage where it acts'
  )
  assert facts.own_map(('gate', 'received')) == (
    'spatial gate or attention received, whichever acts last, mean over the blocks of the last'
    ' stage where it acts'
  )


def test_of_a_mixture_nothing_is_published():
  se, eca = Mechanism('se', 'branch', (1,)), Mechanism('eca', 'branch', (2,))
  idle = dataclasses.replace(se, attends=False)
  assert published.of_variant(Variant('a', (), [se])) == published.rows(['se']) != []
  assert published.of_variant(Variant('a', (), [se, eca])) == []
  assert published.of_variant(Variant('a', (), [idle, eca])) == published.rows(['eca'])
  assert published.of_variant(Variant('a', ())) == []


def test_a_swept_rate_is_named_by_variant():
  found = fake_findings.findings(('plain', 'other'), pictures=1)
  recipe = dataclasses.replace(found.conditions.recipe, swept={'plain': 0.1, 'other': 0.4})
  conditions = dataclasses.replace(found.conditions, recipe=recipe)
  printed = facts.conditions(dataclasses.replace(found, conditions=conditions))
  assert (
    'learning rate per 256 images chosen by a sweep: 0.1 (plain), 0.4 (other), cosine'
    in printed['recipe']
  )
  assert facts.conditions(found)['recipe'] == (
    '1\N{NARROW NO-BREAK SPACE}250 updates of 64 images (10 epochs), sgd, learning rate 0.1 per 256'
    ' images, cosine schedule, warm-up of 1 epoch, weight decay 0.0005, train.clip_norm 1.0'
  )
  assert printed['seeds'] == '0, 1, 2' and printed['measured in'] == '12.3 minutes'
