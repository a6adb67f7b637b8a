"""Tokenizing takes little memory for a byte of text, whatever the text is like. Each text has a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIZE = 30_000_000
MOST = 10  # bytes of memory for a byte of text

PREPARE = """
import json, re, sys
import numpy, pyarrow, tokenizers  # what every process has
import lmcore.corpus.prepare as prepare
from lmcore.config import DataConfig
from pathlib import Path

def peak():
    # Not getrusage, which goes on counting from the process that started this one.
    return 1024 * int(re.findall("VmHWM:[^0-9]+([0-9]+)", Path("/proc/self/status").read_text())[0])

tokenizer, kind, size, folder = sys.argv[1] or None, sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
words = "the of and to in a is that for it was as with be by on not he this are or his from at which but".split()
random = numpy.random.default_rng(0)
with (folder / "text.txt").open("w", newline="") as file:
    written = 0
    while written < size:
        if kind == "dna":
            part = "".join(random.choice(list("ACGT"), 100_000))
        elif kind == "fasta":
            part = "\\n".join("".join(line) for line in random.choice(list("ACGT"), (1000, 70))) + "\\n"
        else:
            join = {"crlf": "\\r\\n", "text8": " "}[kind]
            part = "".join(" ".join(line) + join for line in random.choice(words, (1000, 12)))
        written += file.write(part)
before = peak()
tokens = prepare.prepare_tokens(DataConfig(source=str(folder / "text.txt"), tokenizer=tokenizer), folder / "cache")
print(json.dumps({"bytes": tokens.readings[0].bytes, "grown": peak() - before}))
"""


def grown(tmp_path, kind, tokenizer=""):
    """Bytes by which the peak memory of a process grew, for each byte of text that it tokenized."""
    command = [sys.executable, "-c", PREPARE, tokenizer, kind, str(SIZE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout)
    assert found["bytes"] >= 0.9 * SIZE
    return found["grown"] / found["bytes"]


@pytest.mark.parametrize("kind", ["crlf", "text8", "dna", "fasta"])
def test_a_tokenizer_is_trained_and_used_in_ten_bytes_of_memory_for_a_byte_of_text(tmp_path, kind):
    assert grown(tmp_path, kind) < MOST
