"""Sweeps with a real PostgreSQL or MariaDB: two at once, a restart, a killed driver, a copy, a wrong password."""

import shutil
import time

import pytest
from sweeping import (
    count_rows,
    curves,
    descendants,
    kill,
    resume_command,
    run,
    running,
    start,
    sweep_command,
    table_of,
    wait_until,
    write_tokens,
)

from tests.databases import PASSWORD, start_server

DOWN_S = 25


@pytest.fixture(params=["PostgreSQL", "MariaDB"], scope="module")
def server(request):
    """A database server with one database."""
    server = start_server(request.param)
    yield server
    server.close()


def place(folder):
    """A working directory of its own, with tokens."""
    folder.mkdir()
    write_tokens(folder)
    return folder


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_of_two_sweeps_at_once_one_gets_the_name_and_a_restart_costs_it_nothing(server, tmp_path, control, fault):
    kind = type(server).__name__
    together, restart = fault(f"two sweeps of one name at once, {kind}"), fault(f"{kind} restarted, {DOWN_S} s down")
    together.injected()
    places = [place(tmp_path / name) for name in ("a", "b")]
    processes = [start(sweep_command("same", search__storage=server.with_password()), each) for each in places]
    wait_until(lambda: any(process.poll() is not None for process in processes), 200, "neither was refused")
    lost = next(n for n, process in enumerate(processes) if process.poll() is not None)
    out, error = processes[lost].communicate()
    assert processes[lost].returncode == 2, out + error
    assert "search.storage: every sweep needs studies of its own, and the database has same/xs already, for " in error
    assert error.count("\n") == 1
    assert not (places[lost] / "runs" / "same" / "sweep.yaml").exists()
    together.survived()

    process, folder = processes[1 - lost], places[1 - lost] / "runs" / "same"
    wait_until(lambda: count_rows(folder) >= 8, 200, "no 8 rows")
    restart.injected()
    server.stop()
    time.sleep(DOWN_S)
    server.start()
    back, known = time.monotonic(), count_rows(folder)
    wait_until(lambda: count_rows(folder) > known, 100, "no new row")
    seconds = time.monotonic() - back
    out, error = process.communicate(timeout=200)
    assert process.returncode == 0, out + error
    assert out.count("waiting for the database (") == 1
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table  # which needs the password
    restart.survived(seconds=seconds)
    assert PASSWORD not in out + error
    for path in folder.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_killed_driver_is_resumed_and_a_copy_of_its_folder_is_not(server, tmp_path, control, fault):
    kind = type(server).__name__
    killed, copied = fault(f"driver kill -9, {kind}"), fault(f"copy of the folder resumed, {kind}")
    here = place(tmp_path / "a")
    folder, url = here / "runs" / "killed", server.with_password()
    process = start(sweep_command("killed", search__storage=url), here)
    wait_until(lambda: count_rows(folder) >= 20, 200, "no 20 rows")
    family = descendants(process.pid)
    killed.injected()
    kill(process)
    wait_until(lambda: not running(family), 20, "processes were left")
    copied.injected()
    shutil.copytree(folder, here / "runs" / "copy")
    again = ("--set", f"search.storage={url}")
    refused = run(resume_command("copy", *again), here, check=2)
    assert f"this is a copy of {folder}, which has them" in refused.stderr
    assert refused.stderr.count("\n") == 1
    copied.survived()
    began = time.monotonic()
    if kind == "PostgreSQL":  # the password in a place that is better than the address
        run(resume_command("killed", "--storage", server.url), here, timeout=400, check=0, PGPASSWORD=PASSWORD)
    else:
        run(resume_command("killed", *again), here, timeout=400, check=0)
    killed.survived(seconds=time.monotonic() - began)
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    states = server.run(
        "SELECT state, COUNT(*) FROM trials JOIN studies USING (study_id) WHERE study_name = 'killed/xs' GROUP BY state"
    )
    assert [tuple(row) for row in states] == [("COMPLETE", 6)]


@pytest.mark.ray
def test_a_wrong_password_is_one_line_before_ray_starts(server, tiny, fault):
    wrong = fault(f"wrong password, {type(server).__name__}")
    wrong.injected()
    refused = run(sweep_command("wrong", search__storage=server.with_password("gu3ss")), tiny, check=2)
    assert refused.stderr.count("\n") == 1
    assert "search.storage: must be a database that Optuna can open" in refused.stderr
    assert "gu3ss" not in refused.stdout + refused.stderr
    assert "Results: " not in refused.stdout  # which comes after the start of Ray
    wrong.survived()
