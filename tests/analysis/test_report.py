"""The report prints and writes its tables, fits the terminal, and reports a user's mistake in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.document.report_text import PRINTED_TRIALS
from analysis.report import build_report, main, write_report
from analysis.tables.formatting import FLOP_SUFFIXES, beta, count, loss, markdown_table, number, scientific
from analysis.tables.trials import parameter_table, trials_table
from lmcore.terminal.console import PIPE_WIDTH, as_text

ROOT = Path(__file__).resolve().parents[2]


def report_of(run):
    return build_report(analysis.load(run.path))


def test_the_main_table_fits_into_a_line_of_the_terminal(make_run):
    run = make_run(studies={"main": "main"})
    big = {"params_estimate": 1_310_720, "params_exact": 1_311_104, "params_non_embedding": 131_072, "tokens": 409_600}
    for tied in (False, True):
        run.add("main", "complete", 4.123, model__tie_embeddings=tied, optim__beta1=0.9341, **big)
    table = report_of(run).text().split("\n\n")[2].splitlines()
    assert len(table) == 3
    assert max(map(len, table)) <= PIPE_WIDTH
    assert table[0].split()[:5] == ["size", "tied", "est.", "exact", "non-emb"]
    assert "4.123 (1 seed)" in table[1]
    assert "1.31M  1.31M" in table[1]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_line_of_the_text_fits_the_terminal(folder, width):
    folder.add("xs", "failed", None, message="word " * 300)
    assert max(map(len, report_of(folder).text(width).splitlines())) <= width


@pytest.mark.parametrize(("columns", "longest"), [("80", 80), ("20", 60), ("", 120)])
def test_the_command_takes_its_width_from_the_terminal(folder, tmp_path, monkeypatch, capsys, columns, longest):
    monkeypatch.setenv("COLUMNS", columns)
    assert main([str(folder.path), "--brief"]) == 0
    report, _ = capsys.readouterr().out.split("\nWritten to ")
    assert longest - 10 < max(map(len, report.splitlines())) <= longest


def test_the_peak_learning_rate_is_not_called_like_the_last_one(folder):
    text = report_of(folder).text()
    assert text.count("  peak lr  ") == 2  # the parameter table and the trials
    assert "  lr  " not in text


def test_a_loss_that_is_not_final_is_marked_in_its_own_cell(folder):
    text = report_of(folder).text()
    assert "4.000 (running)" in text
    assert "s tied: no trial is complete; the row is s-0003, running at step 50." in text


def test_the_last_lines_are_the_answers_by_size(folder):
    lines = report_of(folder).text(width=300).splitlines()
    assert lines[-2] == (
        "xs: 4.200 nats (1 seed) with peak lr 1.0e-03 (xs-0000); by the errors of both losses (those of single windows "
        "were not kept) it cannot be told apart from xs-0001; what another seed would change is not included."
    )
    assert lines[-1].startswith("s: 3.500 nats (1 seed) with peak lr 3.0e-03 (s-0001); by the errors of both losses")
    assert "is better than the other setting that was compared" in lines[-1]


def test_a_size_with_one_complete_trial_has_nothing_to_compare_with(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("s", "pruned", 4.0)
    assert as_text(report_of(run).conclusion(), PIPE_WIDTH).splitlines() == [
        "xs: 4.000 nats (1 seed) with peak lr 3.0e-03 (xs-0000); what another seed would change is not included.",
        "s: no result, because no trial ran to its end.",
    ]


def test_the_answer_leads_the_markdown_and_what_is_not_estimable_is_folded(folder):
    markdown = report_of(folder).markdown()
    assert markdown.index("## Answer\n\nxs: 4.200 nats") < markdown.index("### Parameters and loss")
    assert "not estimable" not in markdown
    assert "5 numbers could not be estimated: " in markdown
    assert "<details><summary>Which numbers</summary>" in markdown


def test_the_report_says_why_trials_ended_early_and_what_the_numbers_rest_on(folder):
    notes = "\n".join(report_of(folder).notes)
    assert "xs-0004 diverged: loss is nan at step 3" in notes
    assert "xs-0005 failed: MemoryError: 3 GB | 2 GB" in notes
    assert "fingerprint f00d" in notes
    assert "1.20M training and 60.0k validation tokens, bytes per token 3.000" in notes
    assert "python 3.11" in notes


def test_a_message_of_many_trials_is_listed_once(make_run):
    run = make_run()
    for _ in range(5):
        run.add("xs", "failed", None, message="no space left")
    for i in range(12):
        run.add("s", "diverged", None, message=f"at step {i}")
    notes = report_of(run).notes
    assert "xs-0000, xs-0001, xs-0002 and 2 more failed: no space left" in notes
    assert "3 more messages of failed and diverged trials are in trials.csv." in notes


def test_many_trials_are_printed_in_part_and_written_in_full(make_run):
    run = make_run()
    for i in range(PRINTED_TRIALS + 3):
        run.add("xs", "complete", 4.0 + i)
    report = report_of(run)
    assert "Trials (3 more in trials.csv)" in report.text()
    last = f"xs-{PRINTED_TRIALS + 2:04d}"
    assert last not in report.text()
    assert last in report.markdown()


def test_all_diverged_or_failed_is_a_report_that_says_so(make_run, capsys):
    run = make_run()
    run.add("xs", "diverged", None, message="nan")
    run.add("xs", "failed", None, message="killed", model__tie_embeddings=True)
    assert main([str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert "2 trials: 0 complete, 0 pruned, 0 running, 0 paused, 1 diverged, 1 failed" in printed
    assert "(none: no trial has a validation loss)" in printed
    assert "xs untied: no row, because no trial has a validation loss (1 diverged)." in printed
    assert "xs tied: no row, because no trial has a validation loss (1 failed)." in printed
    assert "s: no trial has begun." in printed


def test_a_run_whose_only_trial_failed_before_it_reported_has_a_report(make_run, tmp_path):
    made = make_run()
    made.add("xs", "failed", None, message="MemoryError: 3 GB", last=None)
    report = build_report(analysis.load(made.path))
    assert "1 trials: 0 complete" in report.summary
    write_report(report, tmp_path / "report")
    assert "MemoryError: 3 GB" in (tmp_path / "report" / "report.html").read_text()


def test_csv_files_hold_the_tables_in_full_precision(folder, tmp_path):
    folder.add("s", "complete", 1 / 3, optim__lr=1e-3 / 7)
    assert main([str(folder.path), "--out", str(tmp_path / "deep" / "out")]) == 0
    trials = analysis.load(folder.path).trials
    for name, table in (("parameters.csv", parameter_table(trials)), ("trials.csv", trials_table(trials))):
        read = pd.read_csv(tmp_path / "deep" / "out" / name)
        pd.testing.assert_frame_equal(read, table, check_dtype=False, check_exact=True)


def test_markdown_has_both_tables_and_the_notes(folder):
    markdown = report_of(folder).markdown()
    assert markdown.startswith("# quick\n\n10 trials: 5 complete")
    assert "![Loss against updates](loss_steps.svg)" in markdown
    assert "| xs | no | 1.00k | 1.10k | 800 | 25.6k | 179M | 4.200 (1 seed) |" in markdown
    assert "\n\n## Trials\n\n### All trials\n\n| trial | status | val loss |" in markdown
    assert "\n- Data: stdlib, fingerprint f00d" in markdown


def test_a_standard_error_over_windows_is_a_column_of_its_own(folder):
    markdown = report_of(folder).markdown()
    rows = markdown[markdown.index("### All trials") :]
    assert "| trial | status | val loss | se | train loss |" in rows
    assert "| xs-0000 | complete | 4.200 | 0.010 |" in rows


def test_no_cell_breaks_out_of_a_markdown_table():
    assert markdown_table(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1_310_720), "1.31M"),
        (count(999_999), "1.00M"),
        (count(200), "200"),
        (count(0), "0"),
        (count(61.83), "61.8"),
        (count(0.01234), "0.0123"),
        (count(7_000_000_000), "7.00B"),
        (count(pd.NA), "-"),
        (count(2.74e15, FLOP_SUFFIXES), "2.74P"),
        (scientific(0.0032), "3.2e-03"),
        (loss(4.12345), "4.123"),
        (loss(float("inf")), "-"),
        (loss(float("nan")), "-"),
        (beta(0.95), "0.950"),
        (beta(0.9999), "0.9999"),
        (beta(float("nan")), "-"),
        (number(True), "yes"),
        (number(1024), "1024"),
        (number(0.123456), "0.1235"),
        (number(None), "-"),
        (number("post"), "post"),
    ],
)
def test_numbers_are_short(shown, expected):
    assert shown == expected


def spoil_database(path):
    (path / "study.db").write_bytes(b"no SQLite at all" * 500)


@pytest.mark.parametrize("spoil", [lambda path: (path / "manifest.json").unlink(), spoil_database])
def test_bad_input_is_one_line_and_exit_code_2(folder, capsys, spoil):
    spoil(folder.path)
    assert main([str(folder.path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert not (folder.path / "report").exists()


def test_a_report_that_cannot_be_written_is_one_line_and_exit_code_2(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main([str(folder.path), "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="a system without SIGPIPE")
def test_a_closed_pipe_ends_the_command_quietly(folder):
    start = [sys.executable, str(ROOT / "analysis" / "report.py"), str(folder.path)]
    report = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    report.stdout.close()
    with report:
        assert report.stderr.read() == b""
    assert report.returncode == -signal.SIGPIPE
    assert (folder.path / "report" / "report.md").exists()


@pytest.mark.parametrize("command", [[str(ROOT / "analysis" / "report.py")], ["-m", "analysis.report"]])
def test_both_ways_to_start_it_work_from_anywhere(folder, tmp_path, command):
    # The script finds its own root; -m needs to be told.
    environment = {**os.environ, "PYTHONPATH": str(ROOT) if command[0] == "-m" else ""}
    start = [sys.executable, *command]
    good = subprocess.run([*start, "quick"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("quick: 10 trials")
    written = {path.name for path in (folder.path / "report").iterdir()}
    assert {"report.html", "report.md", "report.json", "loss_lr.svg", "loss_lr.png"} <= written
    assert {f"{table}.{kind}" for table in ("parameters", "trials", "cost") for kind in ("csv", "md", "tex")} <= written

    bad = subprocess.run([*start, "absent"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "RUN must be the folder of a run, but absent is not a folder; give runs/<name> of a sweep\n"


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["runs/quick", "--colums", "N=n"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--colums" in error
