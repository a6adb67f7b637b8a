"""How fast compiled trials are, from their rows, beside what was measured uncompiled."""

from types import SimpleNamespace

from lmcore.config import RunSpec, TrainConfig
from sweeps.callbacks.compiled_speed import CompiledSpeed

RUN, OTHER = RunSpec(), RunSpec(train=TrainConfig(batch_size=32))
TWO_SLOTS = {"xs": (2, 1000.0)}


def row(tokens_per_s, engine=0, width=2):
    return {"engine": engine, "width": width, "tokens_per_s": tokens_per_s}


def speed(said, compiled=True, measured=TWO_SLOTS):
    return CompiledSpeed({"xs": RUN}, measured, compiled, said.append)


def test_the_median_of_the_rows_is_that_of_all_slots_of_an_engine_without_the_rows_that_compiled():
    said: list[str] = []
    of_rows = speed(said)
    for of_one_slot, engine in ((10, 0), (600, 0), (20, 1), (590, 1), (610, 0)):
        of_rows.on_report(SimpleNamespace(size="xs", run=RUN), row(of_one_slot, engine))
    assert said == []
    of_rows.on_report(SimpleNamespace(size="xs", run=RUN), row(600))
    assert said == ["Speed of xs on each engine: 1,200 tokens/s, 1,000 without compilation: 1.20x"]
    assert of_rows.tokens_per_s == {"xs": {"eager": 1000.0, "compiled": 1200.0}}


def test_rows_of_another_shape_or_width_do_not_count():
    of_rows = speed([])
    for of_one_slot in (10, 600):
        of_rows.on_report(SimpleNamespace(size="xs", run=RUN), row(of_one_slot))
    of_rows.on_report(SimpleNamespace(size="xs", run=OTHER), row(9000))
    of_rows.on_report(SimpleNamespace(size="xs", run=RUN), row(9000, width=1))
    assert of_rows.tokens_per_s["xs"]["compiled"] == 1200.0


def test_a_size_that_was_not_measured_or_is_not_compiled_says_so():
    said: list[str] = []
    unmeasured = speed(said, measured={"xs": (1, None)})
    for of_one_slot in (10, 600, 600, 600, 600):
        unmeasured.on_report(SimpleNamespace(size="xs", run=RUN), row(of_one_slot, width=1))
    assert said == ["Speed of xs on each engine: 600 tokens/s"]
    uncompiled = speed(said, compiled=False)
    uncompiled.on_report(SimpleNamespace(size="xs", run=RUN), row(500))
    assert uncompiled.tokens_per_s == {"xs": {"eager": 1000.0, "compiled": None}}
    assert len(said) == 1


def test_a_resumed_sweep_keeps_what_was_measured_until_it_has_measured_again():
    resumed = CompiledSpeed({"xs": RUN}, TWO_SLOTS, True, print, {"xs": {"eager": 900.0, "compiled": 1300.0}})
    assert resumed.tokens_per_s == {"xs": {"eager": 1000.0, "compiled": 1300.0}}
