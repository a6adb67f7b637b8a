"""Dropout's masks against SplitMix64 in Python's integers, their statistics, and training with them."""

import itertools
import math

import pytest
import torch

from lmcore import columns as col
from lmcore.clip import clip_grad_norm_
from lmcore.config import OptimConfig, RunSpec, TrainConfig
from lmcore.data import get_batch, validation_windows
from lmcore.dropout import (
    GAMMA,
    RESOLUTION,
    SITE,
    Dropout,
    drop,
    dropout_key,
    dropout_masks,
    dropout_rates,
    kept_channels,
    splitmix64,
)
from lmcore.loss import cross_entropy
from lmcore.model import ModelConfig, TransformerLM
from lmcore.optim import AdamW
from lmcore.schedule import cosine_lr
from lmcore.trainer import Trainer

MASK64 = 2**64 - 1
SMALL = {"vocab_size": 97, "d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 128, "context_length": 16}


def masks_of(*keys, rate=0.25, windows=8):
    """What the masks of these slots depend on."""
    return Dropout(torch.tensor(keys), *dropout_rates([rate] * len(keys)), torch.arange(windows))


def python_splitmix64(state):
    """The reference implementation of Sebastiano Vigna, in unsigned integers."""
    z = state & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def signed(number):
    return (number & MASK64) - (2**64 if number & 2**63 else 0)


def test_the_bits_are_the_published_outputs_of_splitmix64():
    states = torch.tensor([signed(1234567 + n * (GAMMA & MASK64)) for n in range(1, 6)])
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [output & MASK64 for output in splitmix64(states).tolist()] == published


def test_every_channel_is_kept_by_sixteen_bits_of_the_output_that_its_place_counts():
    keys, time, width, site = [dropout_key(0, 0), dropout_key(7, 123)], 3, 10, 5
    masks = masks_of(*keys, rate=0.3, windows=4)
    masks = masks._replace(windows=masks.windows[2:])  # of the third and fourth window
    kept = kept_channels(masks, site, time, width)
    assert kept.shape == (2, 2 * time, width)
    for k, window, t, d in itertools.product(range(2), range(2, 4), range(time), range(width)):
        counter = site * SITE + (window * time + t) * 3 + d // 4
        output = python_splitmix64(keys[k] + counter * GAMMA)
        bits = output >> (16 * (d % 4)) & 0xFFFF
        assert kept[k, (window - 2) * time + t, d] == (bits >= round(0.3 * RESOLUTION))


def test_a_mask_is_the_same_for_any_number_of_slots_and_for_a_part_of_the_batch():
    keys = [dropout_key(seed, 3) for seed in range(5)]
    together = kept_channels(masks_of(*keys), 1, 16, 64).view(5, 8, 16, 64)
    for k, key in enumerate(keys):
        alone = masks_of(key)
        assert torch.equal(kept_channels(alone, 1, 16, 64).view(8, 16, 64), together[k])
        part = alone._replace(windows=alone.windows[4:6])
        assert torch.equal(kept_channels(part, 1, 16, 64).view(2, 16, 64), together[k, 4:6])


def test_a_compiled_program_makes_the_same_masks():
    seeds = masks_of(dropout_key(0, 0), dropout_key(1, 5), rate=0.3)
    compiled = torch.compile(dropout_masks, dynamic=False)(seeds, 3, 16, 62)
    for mine, theirs in zip(compiled.kept, dropout_masks(seeds, 3, 16, 62).kept, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_makes_the_same_masks_as_a_cpu(compiled):
    seeds = masks_of(dropout_key(0, 0), dropout_key(1, 5), rate=0.3)
    make = torch.compile(dropout_masks, dynamic=False) if compiled else dropout_masks
    on_gpu = make(Dropout(*(tensor.cuda() for tensor in seeds)), 3, 16, 62)
    for mine, theirs in zip(on_gpu.kept, dropout_masks(seeds, 3, 16, 62).kept, strict=True):
        assert torch.equal(mine.cpu(), theirs)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate_within_five_standard_errors(rate):
    kept = kept_channels(masks_of(dropout_key(0, 0), dropout_key(1, 0), rate=rate), 0, 128, 256)
    error = math.sqrt(rate * (1 - rate) / kept.numel())
    assert abs((~kept).float().mean().item() - rate) < 5 * error
    for over in (0, 1, 2):  # also of every slot, position and channel
        shares = (~kept).float().mean([dim for dim in range(3) if dim != over])
        spread = math.sqrt(rate * (1 - rate) * len(shares) / kept.numel())
        assert (shares - rate).abs().max() < 6 * spread


def test_masks_of_other_updates_seeds_sites_windows_and_positions_are_uncorrelated():
    def mask(seed=0, step=0, site=0):
        return (~kept_channels(masks_of(dropout_key(seed, step), rate=0.5), site, 64, 128)).double().view(8, 64, 128)

    one = mask()
    others = [mask(step=1), mask(step=2), mask(seed=1), mask(site=1), mask(site=2), mask(seed=1, step=1, site=1)]
    others += [one.roll(shift, dim) for dim in range(3) for shift in (1, 2, 3, 4)]  # of neighbours
    for other in others:
        correlation = torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1].item()
        assert abs(correlation) < 5 / math.sqrt(one.numel())


def test_kept_channels_are_scaled_so_that_the_expectation_stays():
    masks = dropout_masks(masks_of(dropout_key(0, 0), dropout_key(1, 0), rate=0.3), 1, 64, 128)
    x = torch.full((2, 8 * 64, 128), 2.0)
    dropped = drop(x, masks, 0)
    kept = RESOLUTION - round(0.3 * RESOLUTION)
    assert dropped.unique().tolist() == [0.0, pytest.approx(2 * RESOLUTION / kept, rel=1e-6)]
    error = 2 * math.sqrt(0.3 / 0.7 / x.numel())
    assert abs(dropped.mean().item() - 2) < 5 * error


def test_a_dropped_channel_passes_no_gradient_and_no_nan():
    masks = dropout_masks(masks_of(dropout_key(0, 0), rate=0.5, windows=2), 1, 4, 16)
    x = torch.full((1, 8, 16), torch.nan, requires_grad=True)
    dropped = drop(x, masks, 0)
    dropped.backward(torch.ones_like(dropped))
    assert torch.equal(dropped.isnan(), masks.kept[0])
    assert torch.equal(x.grad, 2.0 * masks.kept[0])


@pytest.mark.parametrize("rate", [0.0, 2**-18])
def test_a_rate_that_rounds_to_zero_changes_no_bit(rate):
    x = torch.randn(1, 8 * 16, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drop(x, dropout_masks(masks_of(dropout_key(0, 0), rate=rate), 1, 16, 64), 0), x)


def test_the_largest_rate_below_one_keeps_something():
    thresholds, scales = dropout_rates([1 - 1e-12])
    assert thresholds.tolist() == [RESOLUTION - 1]
    assert scales.isfinite().all()


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_the_embedding_and_every_sublayer_drop_once_each(norm):
    model = TransformerLM(ModelConfig(**SMALL, norm=norm, dropout=0.25))
    masks = dropout_masks(masks_of(dropout_key(0, 0)), model.dropout_sites, 16, 64)
    seen = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("lmcore.model.drop", lambda x, masks, site: seen.append(site) or x)
        tokens = torch.zeros(1, 8, 16, dtype=torch.long)
        without = model.hidden(tokens, masks)
    assert seen == list(range(5)) == list(range(len(masks.kept)))
    assert torch.equal(without, model.hidden(tokens))  # a mask that drops nothing leaves the model as it is
    assert not torch.equal(without, model.hidden(tokens, masks))
    assert torch.equal(model.hidden(tokens), model.hidden(tokens))


def run(rate, seed=0, train=None, **optim):
    """A short run with dropout."""
    return RunSpec(
        model=ModelConfig(**SMALL, dropout=rate),
        train=TrainConfig(
            **{"steps": 12, "batch_size": 4, "eval_every": 4, "eval_windows": 8, "seed": seed} | (train or {})
        ),
        optim=OptimConfig(**optim),
    )


RATES = [run(0.1, seed=0), run(0.5, seed=1, lr=1e-2), run(0.9, seed=0, beta2=0.99)]


def numbers(rows):
    """Rows without what differs from run to run: place and times."""
    return [
        {name: value for name, value in row.items() if name not in (col.SLOT, col.TOKENS_PER_S, col.ELAPSED_S)}
        for row in rows
    ]


@pytest.mark.parametrize("batched", [True, False])
def test_slots_of_other_rates_train_bitwise_as_alone(small_tokens, batched):
    trainer = Trainer(RATES, small_tokens)
    rows = []
    while trainer.active:
        rows += trainer.advance(batched=batched)
    for k, alone in enumerate(RATES):
        assert numbers(row for row in rows if row[col.SLOT] == k) == numbers(Trainer([alone], small_tokens))


def test_a_run_resumed_with_dropout_goes_on_bitwise(small_tokens, tmp_path):
    whole = Trainer([RATES[1]], small_tokens)
    first, second, third = whole.advance(), whole.advance(), whole.advance()
    stopped = Trainer([RATES[1]], small_tokens)
    assert numbers(stopped.advance()) == numbers(first)
    stopped.save_slot(0, tmp_path / "slot.safetensors")
    other = Trainer([RATES[0], None], small_tokens)
    other.restore_slot(1, tmp_path / "slot.safetensors")
    assert numbers(other.advance([1])) == numbers(second)
    assert numbers(other.advance([1])) == numbers(third)


def test_training_with_dropout_is_a_plain_loop_that_drops_and_evaluates_without(small_tokens):
    """Reference: the same masks in a loop over public functions, and the loss of the trained model without masks."""
    spec = run(0.5, seed=3, lr=1e-2)
    trainer = Trainer([spec], small_tokens)
    row = trainer.advance()[0]
    model = TransformerLM(spec.model, seeds=[3])
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(4):
        x, y = get_batch(small_tokens.train, 4, 16, "cpu", 0, step)
        seeds = Dropout(torch.tensor([dropout_key(3, step)]), *dropout_rates([0.5]), torch.arange(4))
        masks = dropout_masks(seeds, 5, 16, 64)
        optimizer.param_groups[0]["lr"] = cosine_lr(step + 1, 1e-2, 1e-3, 1, 12)
        loss = cross_entropy(model.hidden(x[None], masks)[0] @ model.head()[0].T, y.flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert row[col.TRAIN_LOSS] == pytest.approx(sum(losses) / 4, rel=1e-5)
    x, y = validation_windows(small_tokens.val, 16, 8)
    assert row[col.VAL_LOSS] == pytest.approx(cross_entropy(trainer.model(x[None])[0], y).item(), rel=1e-5)


def test_runs_with_and_without_dropout_are_no_slots_of_one_population(small_tokens):
    assert run(0.1).static_signature == run(0.9).static_signature != run(0.0).static_signature
    with pytest.raises(ValueError, match="dropout > 0"):
        Trainer([run(0.1), run(0.0)], small_tokens)


def test_compiled_slots_with_dropout_are_bitwise_their_compiled_runs_alone_and_drop_the_same(small_tokens):
    compiled = [r.model_copy(update={"train": r.train.model_copy(update={"compile": True})}) for r in RATES[:2]]
    together = list(Trainer(compiled, small_tokens))
    for k, alone in enumerate(compiled):
        mine = numbers(row for row in together if row[col.SLOT] == k)
        assert mine == numbers(Trainer([alone], small_tokens))
        for row, eager in zip(mine, Trainer([RATES[k]], small_tokens), strict=True):
            assert row[col.TRAIN_LOSS] == pytest.approx(eager[col.TRAIN_LOSS], rel=1e-4)
