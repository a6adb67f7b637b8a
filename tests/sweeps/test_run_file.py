"""lmcore reads a sweep's file as the sweep does."""

from pathlib import Path

import pytest

from lmcore.config import RunSpec
from lmcore.runfile.run_file import SWEEP_SECTIONS, load_run
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_run_of_a_size_is_the_one_that_its_trials_override(path):
    spec = load_spec(path)
    for name in spec.size_names:
        assert load_run(path, name) == (spec.run_for(name, {}), name)
    assert load_run(path) == (spec.run_for(spec.size_names[-1], {}), spec.size_names[-1])


def test_the_sections_that_are_passed_over_are_all_that_a_sweep_has_beside_a_run():
    assert set(SWEEP_SECTIONS) == set(SweepSpec.model_fields) - set(RunSpec.model_fields)
