"""A ladder whose driver is killed in its middle ends with the predictions and the trials of one that was not."""

import time

import pytest
from sweeping import count_rows, curves, kill, resume_command, run, start, sweep_command, table_of, wait_until

SIZES = ", ".join(
    f"{{name: {name}, model.d_model: {width}, model.d_ff: {2 * width}, model.num_layers: 1}}"
    for name, width in (("xs", 32), ("s", 48), ("m", 64))
)
LADDER = {
    "sizes": f"[{SIZES}]",
    "transfer": "on",
    "trials": 12,
    "search": "optuna",
    "confirm__top": "1",
    "train__steps": "100",
}


@pytest.mark.ray
@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("slots", "options"),
    [(1, {"search__concurrent": "1"}), (4, {"search__concurrent": "4", "search__reproducible": "true"})],
    ids=["one slot", "packed"],
)
def test_a_ladder_that_is_killed_in_each_size_ends_as_one_that_was_not(slots, options, tiny, fault):
    options = {**LADDER, **options, "confirm__seeds": "2", "slots": slots}
    run(sweep_command("whole", **options), tiny, check=0)
    whole, folder = tiny / "runs" / "whole", tiny / "runs" / "killed"
    rows = count_rows(whole)
    driver = fault(f"driver kill -9 in a ladder, {slots} slots")
    process = start(sweep_command("killed", **options), tiny)
    for share in (0.25, 0.5, 0.75):
        wait_until(lambda share=share: count_rows(folder) >= share * rows, 150, f"no {share:.0%} of the rows")
        driver.injected()
        kill(process)
        began = time.monotonic()
        process = start(resume_command("killed"), tiny)
    out, error = process.communicate(timeout=250)
    assert process.returncode == 0, out + error
    assert curves(folder) == curves(whole)
    assert table_of(folder) == table_of(whole)
    for name in ("next", "m"):
        assert (folder / "best" / f"{name}.yaml").read_text() == (whole / "best" / f"{name}.yaml").read_text()
    driver.survived(3, time.monotonic() - began)
