"""A sweep.yaml that was edited by hand is refused on resume, field by field; the sweep's own changes are not."""

import json

import pytest

from lmcore.errors import InputError
from sweeps.cli.options import parse
from sweeps.provenance.sweep_file import ENTRY, announce, check_unedited, sweep_entry
from sweeps.run import load_sweep, main
from sweeps.rundir.folder import RunFolder, write_json, write_text
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import dump_yaml

RULE = "runs/quick/sweep.yaml: must be as the sweep wrote it, because its trials were run with that"


@pytest.fixture
def folder(in_tmp):
    """The folder of a sweep that has begun."""
    folder = RunFolder.named("quick")
    text = dump_yaml(load_spec(parse([]).config).absolute())
    write_text(folder.sweep_yaml, text)
    write_json(folder.manifest, {"schema": 2, ENTRY: sweep_entry(text)})
    return folder


def edit(folder, *changes):
    text = folder.sweep_yaml.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    folder.sweep_yaml.write_text(text)


def resume(*more):
    return load_sweep(parse(["--resume", "runs/quick", *more]))[0]


def test_a_file_as_the_sweep_wrote_it_is_resumed(folder):
    assert resume("--trials", "40").search.trials == 40


def test_comments_and_layout_may_change(folder):
    edit(folder, ("optim:\n", "# what follows is the optimizer's\noptim:\n\n"), ("seed: 0", "seed:   0"))
    assert resume().name == "quick"


def test_a_change_that_would_mix_trials_is_refused_with_the_way_out(folder, capsys):
    edit(folder, ("weight_decay: 0.1", "weight_decay: 0.3"))
    with pytest.raises(InputError) as error:
        resume()
    assert str(error.value) == (
        f"{RULE} (optim.weight_decay was 0.1 and is 0.3); put back what it was, or start a new sweep with --config and "
        "another --name"
    )
    assert main(["--resume", "runs/quick"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match=r"optim\.weight_decay was 0\.1 and is 0\.3"):
        load_sweep(parse(["--resume", "auto"]))


def test_a_change_that_a_resume_may_make_is_to_be_given_on_the_command_line(folder):
    before = load_spec(folder.sweep_yaml).search.trials
    edit(folder, (f"trials: {before}", "trials: 99"))
    with pytest.raises(InputError) as error:
        resume()
    assert str(error.value) == (
        f"{RULE} (search.trials was {before} and is 99); put back what it was, and give what a resume may change on "
        "the command line, as in --set search.trials=..."
    )


def test_of_many_changes_three_are_named(folder):
    changes = [("beta1: 0.9", "beta1: 0.8"), ("beta2: 0.95", "beta2: 0.9"), ("eps: 1.0e-08", "eps: 1.0e-07")]
    edit(folder, *changes, ("clip_norm: 1.0", "clip_norm: 2.0"), ("weight_decay: 0.1", "weight_decay: 0.3"))
    with pytest.raises(InputError, match=r"and 2 more\); put back"):
        resume()


def test_a_field_that_was_added_or_removed_is_named_too(folder):
    edit(folder, ("  weight_decay: 0.1\n", ""))
    with pytest.raises(InputError, match=r"\(optim\.weight_decay was 0\.1 and is null\)"):
        resume()


def test_a_driver_that_is_killed_while_it_writes_its_own_changes_can_be_resumed(folder):
    text = folder.sweep_yaml.read_text()
    changed = text.replace("concurrent: null", "concurrent: 2")
    assert changed != text
    announce(folder, changed)
    check_unedited(folder)  # killed before sweep.yaml was written
    write_text(folder.sweep_yaml, changed)
    check_unedited(folder)  # killed before the manifest was written
    announce(folder, changed)
    assert len(json.loads(folder.manifest.read_text())[ENTRY]["sha256"]) == 2


def test_runs_of_earlier_versions_and_sweeps_that_stopped_before_their_manifest_are_resumed(folder):
    edit(folder, ("weight_decay: 0.1", "weight_decay: 0.3"))
    write_json(folder.manifest, {"schema": 2})
    assert resume().optim.weight_decay == 0.3
    folder.manifest.unlink()
    assert resume().optim.weight_decay == 0.3
    announce(folder, folder.sweep_yaml.read_text())
    assert not folder.manifest.exists()


@pytest.mark.parametrize("entry", [1, [], {"sha256": None, "text": ""}, {"text": "name: quick"}])
def test_a_damaged_entry_is_one_line(folder, entry):
    write_json(folder.manifest, {"schema": 2, ENTRY: entry})
    with pytest.raises(InputError, match=r"^runs/quick/manifest\.json: must hold the text of sweep\.yaml"):
        resume()
