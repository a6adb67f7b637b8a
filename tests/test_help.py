"""`--help` of every command: it names every option, fits its terminal, and is coloured there only."""

import argparse
import os
import pty
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lmsweep
from lmcore.errors import OneLineParser
from lmcore.terminal.help import laid_out

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {name: module for name, (module, _) in lmsweep.COMMANDS.items()}


def parser_of(name, monkeypatch):
    """The parser that the command makes."""
    found = []

    def stop(self, *arguments):
        found.append(self)
        raise SystemExit(0)

    with monkeypatch.context() as patch:
        patch.setattr(OneLineParser, "parse_known_args", stop)
        with pytest.raises(SystemExit):
            import_module(COMMANDS[name]).main([], prog=f"lmsweep {name}")
    return found[0]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option_with_its_description_and_every_line_fits(name, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    parser = parser_of(name, monkeypatch)
    text = parser.format_help()
    assert text.startswith(f"usage: lmsweep {name} [-h]")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "examples:\n  lmsweep " in text
    flat = " ".join(text.split())
    for action in parser._actions:
        assert action.help
        hidden = action.help is argparse.SUPPRESS
        assert all((option in flat) is not hidden for option in action.option_strings)
        if not hidden:
            assert " ".join((action.help % {"default": action.default}).split()) in flat


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_a_command_that_can_be_copied(name, monkeypatch):
    import shlex

    monkeypatch.setenv("COLUMNS", "60")
    parser = parser_of(name, monkeypatch)
    text = parser.format_help().partition("examples:")[2].replace(" \\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("  lmsweep ")]
    assert len(commands) >= 2
    for command in commands:
        parser.parse_args(shlex.split(command)[2:])


def test_an_indented_line_keeps_its_indent_and_a_paragraph_is_filled():
    text = "Two\nlines.\n\nexamples:\n  tool run a b c d\n      what it does, in words\n"
    assert laid_out(text, 16, "tool run") == (
        "Two lines.\n\nexamples:\n  tool run a b \\\n      c d\n      what it\n      does, in\n      words"
    )


def test_a_terminal_gets_colours_and_a_pipe_none():
    command = [sys.executable, str(ROOT / "lmsweep.py"), "exclude", "--help"]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    piped = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in piped
    main, secondary = pty.openpty()
    process = subprocess.Popen(command, env=environment | {"TERM": "xterm-256color"}, stdout=secondary)
    os.close(secondary)
    shown = b""
    try:
        while part := os.read(main, 4096):
            shown += part
    except OSError:  # the terminal is closed
        pass
    assert process.wait() == 0
    assert b"\x1b[" in shown


def test_rich_argparse_is_imported_for_help_only():
    code = "import sys, sweeps.cli.options as o; o.parse(['--trials', '3']); print('rich_argparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["report", "runs/quick", "--output", "x"], "--output is not an option; did you mean --out?"),
        (["report", "runs/quick", "--colums", "N=n"], "--colums is not an option; did you mean --columns?"),
        (["status", "runs/quick", "--follow"], "--follow is not an option; did you mean --watch?"),
        (["status", "runs/quick", "--inteval", "3"], "--inteval is not an option; did you mean --interval?"),
        (
            ["generate", "runs/quick", "x", "--max-new-tokens", "9"],
            "--max-new-tokens is not an option; did you mean --max-tokens?",
        ),
        (["export", "runs/quick", "--out", "a", "--ckpt", "b"], "--ckpt is not an option; did you mean --trial?"),
        (["exclude", "runs/quick", "xs-0001", "--reason", "b"], "--reason is not an option; did you mean --because?"),
        (["cluster-token", "--test", "a:1"], "--test is not an option; did you mean --check?"),
        (["status", "runs/quick", "--zzzz"], "unrecognized arguments: --zzzz"),
        (["status", "runs/quick", "runs/other"], "unrecognized arguments: runs/other"),
    ],
)
def test_a_mistyped_option_of_any_command_is_one_line_that_names_the_nearest(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        lmsweep.main(argv)
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert (out, error) == ("", f"{message}; see --help\n")
