"""The number of slots is chosen from throughput samples, which are averaged over devices."""

import pytest

from lmcore.measure.slot_count import ThroughputSample, average_samples, choose_slots, speedup, worthwhile_slots


def samples(*gains, rate=100.0):
    """Samples of 1, 2, 4, ... slots."""
    return [
        ThroughputSample(1, rate, 1.0, 10),
        *(ThroughputSample(2 ** (n + 1), rate, gain, 10 * n) for n, gain in enumerate(gains)),
    ]


@pytest.mark.parametrize(
    ("gains", "slots"),
    [
        ([], 1),
        ([1.11], 2),  # 10 % pays
        ([1.09], 1),
        ([1.9, 1.8, 1.09], 4),
        ([1.9, 1.8, 1.09, 2.5], 4),  # later samples are ignored once a doubling does not pay
        ([0.9, 3.0], 1),
        ([2.0, 2.0, 2.0], 8),
    ],
)
def test_slots_are_doubled_while_a_doubling_gains_ten_percent(gains, slots):
    assert worthwhile_slots(samples(*gains)) == slots
    assert choose_slots(samples(*gains), None) == slots


def test_the_wanted_number_of_slots_is_used_or_as_many_as_could_be_measured():
    assert choose_slots([ThroughputSample(1, 100.0, 1.0, 0), ThroughputSample(6, 50.0, 0.5, 0)], 6) == 6
    assert choose_slots([ThroughputSample(1, 100.0, 1.0, 0), ThroughputSample(3, 50.0, 0.5, 0)], 6) == 3
    assert choose_slots([], 1) == 1


def test_speedup_is_the_product_of_the_gains_up_to_that_many_slots():
    doubling = samples(1.5, 1.2, 0.8)
    assert [speedup(doubling, slots) for slots in (1, 2, 3, 4, 8)] == pytest.approx([1.0, 1.5, 1.5, 1.8, 1.44])


def test_gains_are_averaged_over_devices_so_that_a_noisy_one_does_not_decide():
    noisy, quiet = samples(1.0, rate=80.0), samples(1.44, 1.05, rate=120.0)
    assert [worthwhile_slots(one) for one in (noisy, quiet)] == [1, 2]
    average = average_samples([noisy, quiet])
    assert [p.slots for p in average] == [1, 2, 4]
    assert [p.gain for p in average] == pytest.approx([1.0, 1.2, 1.05])
    assert [p.tokens_per_s for p in average] == pytest.approx([100.0, 100.0, 120.0])
    assert worthwhile_slots(average) == 2


def test_averaging_one_device_changes_nothing_and_no_samples_give_none():
    assert average_samples([samples(1.5, 1.0)]) == samples(1.5, 1.0)
    assert average_samples([[], []]) == []
