"""lmcore and sweeps read the same runs from a sweep's file."""

from pathlib import Path

import pytest

from lmcore.config import RunSpec
from lmcore.errors import InputError
from lmcore.runfile.run_file import SWEEP_SECTIONS, load_run
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_load_run_gives_the_base_run_of_the_sweeps_trials(path, tmp_path):
    spec = load_spec(path)
    if spec.ladder is not None:
        with pytest.raises(InputError, match="ladder: must come with the sizes that it makes"):
            load_run(path)
        path = tmp_path / "sweep.yaml"
        path.write_text(dump_yaml(spec))
    for name in spec.size_names:
        assert load_run(path, name) == (spec.unresolved_run(name, {}), name)
        assert load_run(path, name)[0].in_steps() == spec.run_for(name, {})
    assert load_run(path) == (spec.unresolved_run(spec.size_names[-1], {}), spec.size_names[-1])


def test_sweep_sections_are_all_fields_of_a_sweep_that_are_not_fields_of_a_run():
    assert set(SWEEP_SECTIONS) == set(SweepSpec.model_fields) - set(RunSpec.model_fields)
