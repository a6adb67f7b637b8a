"""Every command of the page "Bring your data" does what the page says, on files as the page describes them."""

import gzip
import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokenizer import train_tokenizer
from sweeps.cli.options import parse
from sweeps.spec.load import load_spec

ROOT = Path(__file__).resolve().parents[2]
PAGE = re.sub(r" *\\\n *", " ", (ROOT / "docs" / "howto" / "own-data.md").read_text())
COMMANDS = re.findall(r"^    python sweeps/run\.py (.*)$", PAGE, flags=re.MULTILINE)
SHELL = re.findall(r"^    (iconv .*)$", PAGE, flags=re.MULTILINE)
WORDS = ["It", "was", "a", "bright", "cold", "day", "in", "April,", "and", "the", "clocks", "were", "striking."]
READ = {
    "books": "data.source: 3 files, 22 documents, ",
    "stories": "data.source: 1 file, 50 documents, ",
    "bin": "data.val_source: 1 file, 600 tokens read",
    "fineweb": "data.source: 3 files, 4,500 tokens read; ",
    "books-gpt2": "data.source: 3 files, 22 documents, ",
}
"""What the line about a source begins with, by the name of the command's sweep."""


def prose(random, count):
    return " ".join(random.choice(WORDS, count))


@pytest.fixture
def files(in_tmp):
    """The reader's files."""
    random = np.random.default_rng(0)
    books = in_tmp / "books"
    (books / "old").mkdir(parents=True)
    (books / "one.txt").write_text(prose(random, 500))
    (books / "two.txt").write_text("<|endoftext|>".join(prose(random, 100) for _ in range(20)))
    with gzip.open(books / "old" / "three.txt.gz", "wt") as file:
        file.write(prose(random, 500))
    (books / "cover.png").write_bytes(b"\x89PNG\r\n\x1a\n" + random.bytes(100))
    stories = (json.dumps({"story": prose(random, 40)}) + "\n" for _ in range(50))
    (in_tmp / "stories.jsonl").write_text("".join(stories))
    for name, count in (("train", 5000), ("val", 600)):
        random.integers(50257, size=count, dtype=np.uint16).tofile(in_tmp / f"{name}.bin")
    (in_tmp / "fineweb10B").mkdir()
    for name in ("train_000001", "train_000002", "train_000003", "val_000000"):
        head = np.zeros(256, np.int32)
        head[:3] = 20240520, 1, 1500
        ids = random.integers(50257, size=1500, dtype=np.uint16)
        (in_tmp / "fineweb10B" / f"fineweb_{name}.bin").write_bytes(head.tobytes() + ids.tobytes())
    (in_tmp / "gpt2").mkdir()
    train_tokenizer([prose(random, 500)], 400).save(str(in_tmp / "gpt2" / "tokenizer.json"))
    (in_tmp / "old.txt").write_bytes("Où est le café ?\n".encode("windows-1252"))
    return in_tmp


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_reads_its_files_and_says_what_it_read(files, command):
    options = parse(shlex.split(command))
    spec = load_spec(ROOT / "configs" / "quick.yaml", options.set, **options.flags)
    said = []
    tokens = prepare_tokens(spec.data, files / "cache", said.append)
    assert min(len(tokens.train), len(tokens.val)) > 0
    assert any(line.startswith(READ[spec.name]) for line in said), said


def test_the_line_about_skipped_files_is_that_of_the_page(files):
    said = []
    spec = load_spec(ROOT / "configs" / "quick.yaml", parse(shlex.split(COMMANDS[0])).set)
    prepare_tokens(spec.data, files / "cache", said.append)
    skipped = "; 1 skipped (first: books/cover.png, not UTF-8 at byte 0)"
    assert said[0].endswith(skipped)
    assert skipped in PAGE


def test_text_in_another_encoding_can_be_read_after_the_pages_command(files):
    assert len(SHELL) == 1
    subprocess.run(SHELL[0], shell=True, check=True)
    assert (files / "new.txt").read_text(encoding="utf-8") == "Où est le café ?\n"
