"""`--resume auto` starts a sweep once and then resumes it, `--runs` says where; a Ray job's copy is no such place."""

import pytest

from lmcore.errors import InputError
from sweeps.cli.options import parse, resume_command
from sweeps.run import load_sweep
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.rundir.ray_job import check_lasting
from sweeps.spec.settings import strip_password
from sweeps.spec.sweep_spec import dump_yaml

COMMAND = ("--config", "quick", "--name", "batch", "--resume", "auto")


@pytest.fixture
def begin(in_tmp):
    """Starts the sweep of a command line, as far as its first row."""

    def begin(*command, **settled):
        spec, folder, resume = load_sweep(parse(command))
        assert not resume
        train = spec.train.model_copy(update={"device": "cpu", "dtype": "float32", "compile": False, **settled})
        search = spec.search.model_copy(update={"storage": strip_password(spec.search.storage)})
        kept = spec.absolute().model_copy(update={"train": train, "search": search})
        write_text(folder.sweep_yaml, dump_yaml(kept))
        write_text(folder.metrics, "a row of a trial\n")
        return folder

    return begin


def test_the_same_command_starts_a_sweep_and_then_resumes_it_with_what_was_settled_at_its_start(begin):
    folder = begin(*COMMAND)
    spec, again, resume = load_sweep(parse(COMMAND))
    assert resume
    assert again.path == folder.path
    assert (spec.train.device, spec.train.dtype) == ("cpu", "float32")  # and not auto
    assert load_sweep(parse((*COMMAND[:3], "other", *COMMAND[4:])))[2] is False


def test_what_a_resume_may_change_is_changed_by_the_command_and_what_it_may_not_is_refused_in_one_line(begin, in_tmp):
    url = f"sqlite:///{in_tmp}/studies.db?password=secret"
    stored = ("--set", f"search.storage={url}")
    begin(*COMMAND, *stored)
    more = ("--trials", "40", "--set", "confirm.seeds=5", "--slots", "2", "--wandb", "off")
    spec = load_sweep(parse((*COMMAND, *stored, *more)))[0]
    assert (spec.search.trials, spec.confirm.seeds, spec.search.slots, spec.tracking.wandb) == (40, 5, 2, "off")
    assert spec.search.storage == url
    with pytest.raises(InputError) as refusal:
        load_sweep(parse((*COMMAND, *stored, "--set", "train.seed=1")))
    assert str(refusal.value) == (
        "--resume auto: runs/batch holds a sweep already, and train.seed: must stay 0, so that new trials are "
        "comparable with earlier ones (got 1); start a new sweep with another --name"
    )
    with pytest.raises(InputError, match=r"search\.trials: must not shrink"):
        load_sweep(parse((*COMMAND, *stored, "--trials", "4")))


def test_an_address_of_mlflow_that_only_the_folder_names_is_not_used(begin, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    named = ("--set", "tracking.mlflow=http://host:5000")
    begin(*COMMAND, *named)
    with pytest.raises(InputError) as refusal:
        load_sweep(parse(("--resume", "runs/batch")))
    assert str(refusal.value) == (
        "tracking.mlflow: runs/batch/sweep.yaml names an address, which is used only if you confirm it "
        "(got 'http://host:5000'); add --set tracking.mlflow=http://host:5000, or --set tracking.mlflow=off"
    )
    for again in (("--resume", "runs/batch", *named), (*COMMAND, *named)):
        assert load_sweep(parse(again))[0].tracking.mlflow == "http://host:5000"
    for off in (("--resume", "runs/batch", "--set", "tracking.mlflow=off"), COMMAND):
        assert load_sweep(parse(off))[0].tracking.mlflow == "off"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert load_sweep(parse(("--resume", "runs/batch")))[0].tracking.mlflow == "http://host:5000"


def test_the_command_that_resumes_repeats_the_address_of_mlflow():
    options = parse(COMMAND)
    assert "mlflow" not in resume_command(options, "runs/batch", None)
    assert resume_command(options, "runs/batch", None, mlflow="http://host:5000").endswith(
        "--resume runs/batch --set tracking.mlflow=http://host:5000"
    )


def test_a_folder_that_is_called_auto_is_resumed_by_its_path(begin, in_tmp):
    begin("--config", "quick", "--name", "auto", "--runs", ".")
    _, folder, resume = load_sweep(parse(("--resume", "./auto")))
    assert resume
    assert folder.path == in_tmp / "auto"


def test_results_go_to_the_folder_of_runs_that_is_named_and_are_said_to_be_there(in_tmp, capsys):
    (in_tmp / "work").mkdir()
    _, folder, _ = load_sweep(parse(("--runs", str(in_tmp / "elsewhere"), "--name", "x")))
    assert folder.path == in_tmp / "elsewhere" / "x"
    assert folder.display == "elsewhere/x"
    assert RunFolder(in_tmp.parent / "x").display == str(in_tmp.parent / "x")
    with pytest.raises(SystemExit):
        parse(("--runs", "a", "--resume", "a/x"))
    assert "--runs: is where new runs go, and --resume names a folder" in capsys.readouterr().err


def test_the_copy_of_a_working_directory_that_a_ray_job_runs_in_is_refused_as_the_place_of_results(in_tmp):
    copy = in_tmp / "ray" / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    with pytest.raises(
        InputError, match=r"^--runs: must be a folder that stays.*\(got .*_ray_pkg_1/runs\); give a path"
    ):
        check_lasting(RunFolder.named("x", copy / "runs"))
    (in_tmp / "runs").symlink_to(copy)
    with pytest.raises(InputError, match="--runs"):
        check_lasting(RunFolder.named("x"))
    check_lasting(RunFolder.named("x", in_tmp / "shared"))
