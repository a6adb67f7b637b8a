"""`lmsweep dashboard`: its numbers are those of the frames, its server is read-only, its page follows the run."""

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from browser import CHROMIUM, open_page

import analysis
from analysis.dashboard.__main__ import main
from analysis.dashboard.answer_part import AnswerCache
from analysis.dashboard.latest import FILES, Latest
from analysis.dashboard.page import SCRIPTS
from analysis.dashboard.server import make_server
from analysis.dashboard.snapshot import snapshot
from analysis.dashboard.timeline import COLOURS, stretches, timeline, utilization
from analysis.stats.verdicts import verdicts
from analysis.tables.sweep_status import sweep_status
from lmcore import columns as col

ROOT = Path(__file__).resolve().parents[2]
T = 1_767_323_000.0  # seconds since the epoch


@pytest.fixture
def timed(make_run):
    """A run whose rows say where and when they were computed: two engines, one of them with an idle gap."""
    run = make_run()
    first, second = run.add("xs", "complete", 4.0, optim__lr=1e-3), run.add("xs", "complete", 4.1, optim__lr=2e-3)
    third = run.add("xs", None, optim__lr=4e-3)
    for trial, step, engine, began, ended in (
        (first, 50, 0, 0.0, 10.0),
        (first, 100, 0, 10.1, 20.0),  # 0.1 s later: the same stretch
        (third, 50, 0, 30.0, 40.0),  # after 10 s without work
        (second, 50, 1, 0.0, 15.0),
        (second, 100, 1, 25.0, 40.0),  # paused in between: two stretches
    ):
        run.row(trial, step, 4.5, engine=engine, slot=0, width=1, began_at=T + began, reported_at=T + ended)
    return run


@contextlib.contextmanager
def serving(folder):
    with make_server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, gzip.decompress(body) if response.headers.get("Content-Encoding") == "gzip" else body


def test_the_snapshot_has_the_numbers_of_the_frames(folder):
    found, run = snapshot(folder.path), analysis.load(folder.path)
    json.dumps(found, allow_nan=False)
    status = sweep_status(folder.path)
    assert found["status"]["ended"] == status.ended == 9
    assert found["status"]["counts"] == {
        one: int((run.trials["status"] == one).sum()) for one in found["status"]["counts"]
    }
    assert found["lead"] == list(verdicts(run.trials).sentences)
    trials = found["tables"]["trials"]
    assert set(trials["ids"]) == set(run.trials["trial"])
    loss, updates = (trials["columns"].index(name) for name in ("loss", "updates"))
    by_id = run.trials.set_index("trial")
    for trial, row, group in zip(trials["ids"], trials["rows"], trials["groups"], strict=True):
        expected = by_id.loc[trial]
        assert row[loss] == ("-" if expected["loss"] != expected["loss"] else f"{expected['loss']:.4f}")
        assert group["status"] == expected["status"]
        assert row[0] == trial
    assert trials["rows"][trials["ids"].index("s-0003")][updates] == "50 of 100"
    studies = {row[0]: row for row in found["tables"]["studies"]["rows"]}
    assert studies["xs"][1:3] == ["4.2000", "xs-0000"]


def test_bars_are_the_stretches_of_the_rows(timed):
    run = analysis.load(timed.path)
    found = stretches(run)
    expected = [
        (0, 0, "xs-0000", 0.0, 20.0, 19.9, 100),
        (0, 0, "xs-0002", 30.0, 40.0, 10.0, 50),
        (1, 0, "xs-0001", 0.0, 15.0, 15.0, 50),
        (1, 0, "xs-0001", 25.0, 40.0, 15.0, 100),
    ]
    names = ["engine", "slot", "trial", "began_at", "ended_at", "used_s", "updates"]
    for row, (engine, slot, trial, began, ended, used, updates) in zip(
        found[names].itertuples(index=False), expected, strict=True
    ):
        assert (row[0], row[1], row[2], row[6]) == (engine, slot, trial, updates)
        assert list(row[3:6]) == pytest.approx([T + began, T + ended, used], abs=1e-3)
    assert utilization(found) == pytest.approx(59.9 / 80, abs=1e-4)
    shown = timeline(run)
    complete, running = shown["data"]
    assert (complete["name"], running["name"]) == ("complete", "running")
    assert complete["x"] == [20_000, 15_000, 15_000]
    assert complete["y"] == [0, 1, 1]
    assert running["customdata"] == ["xs-0002"]
    assert shown["layout"]["yaxis"]["ticktext"] == ["engine 0", "engine 1"]
    assert "75% of the time" in shown["caption"]


def test_rows_that_do_not_say_where_have_no_timeline(folder):
    assert "timeline" not in snapshot(folder.path)["figures"]


def test_a_replay_has_no_timeline_and_says_what_it_is(timed):
    (timed.path / "manifest.json").write_text(json.dumps({**timed.manifest, "replay": {"source": "curves.csv"}}))
    found = snapshot(timed.path)
    assert "timeline" not in found["figures"]
    assert any("replay" in note for note in found["notes"])


def test_a_run_whose_trials_have_not_reported_says_so(make_run):
    run = make_run()
    run.add("xs", None)
    found = snapshot(run.path)
    assert found["waiting"] == "No trial has reported yet."
    assert found["figures"] == {}
    assert found["lead"] == []
    assert found["tables"]["trials"]["ids"] == ["xs-0000"]


def test_an_excluded_trial_is_named_and_not_shown(folder):
    folder.study("xs").set_user_attr("excluded", {"xs-0000": "a bad node"})
    found = snapshot(folder.path)
    assert "xs-0000" not in found["tables"]["trials"]["ids"]
    assert any("1 trial is excluded and not shown: xs-0000" in note for note in found["notes"])


def test_the_training_loss_is_drawn_from_the_finer_curves(timed):
    timed.points("xs-0000", [[0, 5.5, 1.0, 1e-3], [10, 5.0, 0.9, 1e-3], [20, 4.8, 0.8, 1e-3]])
    timed.points("xs-0001", [[0, 5.6, 1.0, 2e-3], [10, 5.2, 0.9, 2e-3]])
    traces = snapshot(timed.path)["figures"]["train_loss"]["data"]
    points = {}
    for trace in traces:
        if trace.get("mode") == "lines":
            for trial, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True):
                if trial is not None:
                    points.setdefault(trial, []).append((x, y))
    assert points == {"xs-0000": [(0, 5.5), (10, 5.0), (20, 4.8)], "xs-0001": [(0, 5.6), (10, 5.2)]}


def test_the_answer_is_computed_again_only_when_a_trial_ends(folder):
    answers = AnswerCache()
    before = answers.of(analysis.load(folder.path).trials)
    folder.row("s-0003", 75, 3.9)
    assert answers.of(analysis.load(folder.path).trials) is before
    folder.add("s", "complete", 3.2, model__d_model=128, optim__beta1=0.7)
    assert "s-0004" in " ".join(answers.of(analysis.load(folder.path).trials).lead)


def test_the_folder_is_read_only_if_a_file_changed_and_at_most_every_two_seconds(folder):
    now = [0.0]
    latest = Latest(folder.path, clock=lambda: now[0])
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    first = latest.answer()
    folder.row("s-0003", 75, 3.9)
    assert latest.answer() is first
    now[0] = 2.5
    second = latest.answer()
    assert second.tag != first.tag
    now[0] = 1000.0
    assert latest.answer() is second
    names = {path.name for path in folder.path.iterdir()}
    assert names == set(before)
    assert {name for name in names if folder.path.joinpath(name).stat().st_mtime_ns != before[name]} == {
        "metrics.jsonl"
    }
    assert "metrics.jsonl" in FILES


def test_a_folder_that_can_no_longer_be_read_gives_the_reason(folder):
    now = [0.0]
    latest = Latest(folder.path, clock=lambda: now[0])
    assert "error" not in json.loads(gzip.decompress(latest.answer().body))
    (folder.path / "manifest.json").unlink()
    now[0] = 60.0
    assert "manifest.json" in json.loads(gzip.decompress(latest.answer().body))["error"]


def test_the_server_answers_three_addresses_to_reads_on_the_loopback(folder):
    with serving(folder.path) as server:
        assert server.server_address[0] == "127.0.0.1"
        response, body = ask(server, "/data.json")
        assert response.status == 200
        assert json.loads(body)["status"]["ended"] == 9
        tag = response.headers["ETag"]
        assert ask(server, "/data.json", **{"If-None-Match": tag})[0].status == 304
        page, html = ask(server, "/")
        assert page.status == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert b"<script src" not in html
        assert ask(server, "/plotly.js")[0].status == 200
        for path in ("/manifest.json", "/study.db", "/../quick/manifest.json", "/%2e%2e/metrics.jsonl", "//etc/passwd"):
            assert ask(server, path)[0].status == 404
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"):
            response, _ = ask(server, "/data.json", method)
            assert (response.status, response.headers["Allow"]) == (405, "GET")
        for host in ("evil.example", "127.0.0.1.evil.example", "", f"evil.example:{server.server_port}"):
            assert ask(server, "/data.json", Host=host)[0].status == 403
        assert ask(server, "/data.json", Host="localhost:9000")[0].status == 200  # a forwarded port


def test_what_cannot_be_shown_is_refused_in_one_line(folder, tmp_path, make_run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([str(folder.path), "--port", str(port)]) == 2
    assert f"--port must be a free port of 127.0.0.1 that you may use, but {port} is not" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing", tmp_path / "empty"):
        assert main([str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
    (folder.path / "study.db").write_bytes(b"no database")
    assert main([str(folder.path)]) == 2
    assert "must be readable" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([str(folder.path), "--port", "70000"])
    assert end.value.code == 2


def test_the_address_is_the_first_line_and_ctrl_c_ends_it_quietly(folder):
    command = [sys.executable, "lmsweep.py", "dashboard", str(folder.path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, **pipes) as process:
        address = process.stdout.readline().strip()
        connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_every_status_has_the_colour_of_the_timeline():
    script = SCRIPTS[-1].read_text()
    for status in col.STATUSES:
        assert f"{status}: '{COLOURS[status]}'" in script


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_fits_follows_the_run_and_keeps_what_the_reader_chose(timed, tmp_path, width, scheme):
    with serving(timed.path) as server, open_page(server.url, width, tmp_path / "profile", scheme) as tab:
        tab.wait("document.querySelectorAll('#trials tbody tr').length === 3")
        assert tab.value("document.querySelector('#counts').textContent").startswith("2 of 4 trials have ended")
        tab.value("""(async () => {
            for (const one of document.querySelectorAll('figure')) {
                one.scrollIntoView();
                await new Promise(done => setTimeout(done, 100));
            }
        })()""")
        tab.wait("[...document.querySelectorAll('figure')].every(one => one.classList.contains('live'))")
        tab.wait("document.querySelectorAll('#slots .bars path').length === 4")
        # The reader sorts, zooms, selects and scrolls.
        order = "[...document.querySelectorAll('#trials tbody tr')].map(row => row.dataset.trial)"
        heading = "[...document.querySelectorAll('#trials th button')].find(one => one.textContent === 'peak lr')"
        tab.value(f"{heading}.click()")
        assert tab.value(order) == ["xs-0000", "xs-0001", "xs-0002"]
        tab.value(f"{heading}.click()")
        assert tab.value(order) == ["xs-0002", "xs-0001", "xs-0000"]
        plot = "document.querySelector('[data-figure=loss_steps] .plot')"
        zoomed = """{'xaxis.range[0]': 40, 'xaxis.range[1]': 90}"""
        tab.value(f"Plotly.relayout({plot}, {zoomed}).then(() => 0)")
        tab.value("document.querySelector('#trials a.trial').click()")
        assert tab.value("document.querySelector('#trial h2').textContent") == "xs-0002"
        tab.value("scrollTo(0, 300)")
        timed.row("xs-0002", 75, 4.25, engine=0, slot=0, width=1, began_at=T + 40, reported_at=T + 50)
        waited = tab.value("""(async () => {
            const begun = Date.now();
            while (!document.querySelector('#trials').textContent.includes('75 of 100')) {
                if (Date.now() - begun > 20000) return null;
                await new Promise(done => setTimeout(done, 50));
            }
            return Date.now() - begun;
        })()""")
        assert waited is not None
        assert waited < 5000
        assert tab.value(order) == ["xs-0002", "xs-0001", "xs-0000"]
        assert tab.value(f"{plot}.layout.xaxis.range.map(Math.round)") == [40, 90]
        assert tab.value("document.querySelector('#trials tr.chosen').dataset.trial") == "xs-0002"
        assert tab.value("scrollY") == 300
        assert tab.overflow == 0
        assert tab.overflowing == []
        assert tab.errors == []
        assert {one for one in tab.requests if not one.startswith((server.url, "data:", "blob:", "about:"))} == set()
        # The server ends: the page says so and stays.
        server.shutdown()
        server.server_close()
        tab.wait("document.querySelector('#trouble').textContent.includes('does not answer')")
        assert tab.value(order) == ["xs-0002", "xs-0001", "xs-0000"]
