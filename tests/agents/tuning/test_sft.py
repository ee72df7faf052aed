"""Supervised fine-tuning."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.tuning.sft import Example, SFTConfig, batches, collate, finetune, weighted_loss


def example(length, offset=0, weight=1.0):
    return Example([(3 * i + offset) % 340 for i in range(length)], [0.0] + [weight] * (length - 1))


def copies(num):
    """Return examples that can be learned: three strings, over and over."""
    return [example(8 + i % 3, offset=50 * (i % 3)) for i in range(num)]


def loss_of(model, examples):
    with torch.no_grad():
        return weighted_loss(model, *collate(examples)).item()


@given(st.lists(st.integers(2, 30), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 9))
def test_each_example_is_drawn_once(lengths, batch_size, seed):
    examples = [example(n, offset=i) for i, n in enumerate(lengths)]
    drawn = list(batches(examples, batch_size, seed))
    assert sorted(id(e) for batch in drawn for e in batch) == sorted(map(id, examples))
    assert all(len(batch) <= batch_size for batch in drawn)
    assert len(drawn) == -(-len(examples) // batch_size)


def test_order_repeats_with_the_seed():
    examples = [example(n) for n in range(2, 60)]
    first, again, other = (list(batches(examples, 4, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_batches_hold_similar_lengths():
    lengths = torch.randint(2, 100, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    drawn = batches([example(n) for n in lengths], 8, 0)
    spreads = [max(len(e.token_ids) for e in b) - min(len(e.token_ids) for e in b) for b in drawn]
    assert sum(spreads) / len(spreads) < 5


@given(st.lists(st.integers(2, 30), min_size=1, max_size=10))
def test_padding_has_no_weight(lengths):
    ids, weights = collate([example(n, offset=n) for n in lengths])
    assert ids.shape == weights.shape == (len(lengths), max(lengths))
    for row, n in enumerate(lengths):
        assert ids[row, :n].tolist() == example(n, offset=n).token_ids
        assert not weights[row, n:].any()


def test_loss_is_the_weighted_mean_of_the_full_cross_entropy(make_tiny_model):
    model = make_tiny_model()
    first, second = example(9), Example([5, 6, 7, 8, 9], [1.0, 0.5, 0.0, 2.0, 0.1])
    found = loss_of(model, [first, second])
    total = share = 0.0
    for one in (first, second):
        ids, weights = torch.tensor([one.token_ids]), torch.tensor(one.weights[1:])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0, :-1], -1)
        total += float(-(logprobs.gather(-1, ids[0, 1:, None])[:, 0] * weights).sum())
        share += float(weights.sum())
    assert found == pytest.approx(total / share, rel=1e-4)


def test_padding_changes_no_loss(make_tiny_model):
    model = make_tiny_model()
    alone = weighted_loss(model, *collate([example(6)]))
    ignored = Example(example(40).token_ids, [0.0] * 40)
    torch.testing.assert_close(weighted_loss(model, *collate([example(6), ignored])), alone)


@pytest.mark.parametrize("autocast", [False, True])
def test_training_lowers_the_loss(make_tiny_model, autocast):
    model = make_tiny_model(initializer_range=0.1)
    examples = copies(800)
    before = loss_of(model, examples[:3])
    finetune(model, examples, SFTConfig(batch_size=8, warmup_steps=2, autocast=autocast))
    assert loss_of(model, examples[:3]) < 0.5 * before
    assert not model.training


def test_training_repeats_with_the_seed(make_tiny_model):
    found = []
    for seed in (1, 1, 2):
        model = make_tiny_model()
        finetune(model, copies(40), SFTConfig(batch_size=8, seed=seed))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_progress_is_reported_every_hundred_steps(make_tiny_model):
    reports = []
    finetune(
        make_tiny_model(),
        copies(230),
        SFTConfig(batch_size=1),
        lambda step, num_steps, loss, seconds: reports.append((step, num_steps, loss > 0)),
    )
    assert reports == [(100, 230, True), (200, 230, True)]


def test_learning_rate_warms_up_and_falls_to_its_end(make_tiny_model, monkeypatch):
    rates = []
    original = torch.optim.AdamW.step

    def step(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])
        return original(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    config = SFTConfig(batch_size=1, warmup_steps=10, learning_rate=1e-3, final_learning_rate=1e-4)
    finetune(make_tiny_model(), copies(60), config)
    assert rates[:10] == pytest.approx([1e-3 * (i + 1) / 10 for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.25)
