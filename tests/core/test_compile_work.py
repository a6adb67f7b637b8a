import pytest

from lmcore.compile_work import COLD_FLOPS, WARM_FLOPS, CompileWork


def test_a_program_pays_from_its_break_even_on_which_is_lower_in_a_warm_cache():
    assert [CompileWork(flops).pays for flops in (0.99 * COLD_FLOPS, COLD_FLOPS)] == [False, True]
    assert [CompileWork(flops, warm=1).pays for flops in (0.99 * WARM_FLOPS, WARM_FLOPS)] == [False, True]


def test_gains_and_costs_are_added_up_over_the_shapes():
    least = COLD_FLOPS + 2 * WARM_FLOPS
    assert [CompileWork(flops, programs=3, warm=2).pays for flops in (0.99 * least, least)] == [False, True]


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (CompileWork(3.1e13), "3.1e+13 FLOPs for each engine and shape, at least 1.5e+13 (cold cache)"),
        (CompileWork(9e11, warm=1), "9.0e+11 FLOPs for each engine and shape, less than 2.5e+12 (warm cache)"),
        (
            CompileWork(2.4e13, 4, 3),
            "6.0e+12 FLOPs for each engine and shape, at least 5.6e+12 (3 of 4 shapes cached)",
        ),
    ],
)
def test_the_reason_names_both_sides_of_the_comparison(work, reason):
    assert work.reason == reason
