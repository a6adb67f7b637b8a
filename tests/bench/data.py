"""How fast text becomes tokens, and in how much memory: `python tests/bench/data.py` writes results/data.json.

Each kind of text, of the same size, is prepared in a process of its own as a sweep does it: with a tokenizer that is
given, and (`trains`) with one that is trained first. The peer is the tokenizers library alone: `encode_batch` over the
same text, which is already in memory and cut as suits it best (see PEER_CHARS). Rounds alternate between the two. The
machine must have nothing else to do.

    mb_per_s             bytes of the text in UTF-8 over seconds, all of `prepare_tokens` included
    ratio                of mb_per_s, ours over the peer's: median over the rounds
    peak_bytes_per_byte  the process's peak resident memory, less that of one that only imports, over bytes of the text

The goals are a ratio of at least 0.7 and at most 10 bytes a byte.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lmcore.config import DataConfig
from lmcore.corpus import pieces as pieces_module
from lmcore.corpus.encode import BATCH_CHARS, fits_of
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.text import scan_text
from lmcore.corpus.tokenizer import load_tokenizer, train_tokenizer

GOAL_RATIO, GOAL_BYTES = 0.7, 10.0
PEER_CHARS = 1 << 12
"""Characters at a time for the peer: `encode_batch` takes twice the time for 2^18, and 1.7 times for single lines."""
KINDS = ("lf", "crlf", "one line", "chinese", "jsonl", "parquet", "dna")
Row = dict[str, Any]


def lines_of(kind: str, size: int) -> Iterator[str]:
    """Lines of text of about `size` bytes: Python's standard library again and again, in another order of its lines."""
    random = np.random.default_rng(0)
    if kind == "chinese":
        # 3,000 characters with the frequencies of words, and a full stop after each sentence.
        common = np.array([chr(code) for code in range(0x4E00, 0x4E00 + 3000)])
        while size > 0:
            line = "".join(common[np.minimum(random.zipf(1.3, 40), 3000) - 1]) + "。"
            size -= len(line.encode())
            yield line
        return
    if kind == "dna":
        while size > 0:
            yield "".join(random.choice(list("ACGT"), 100_000))
            size -= 100_000
        return
    folder = Path(sysconfig.get_path("stdlib"))
    text = "\n".join(path.read_text(errors="ignore") for path in sorted(folder.glob("*.py")))
    lines = np.array([line for line in text.splitlines() if line.strip()], dtype=object)
    while size > 0:
        for line in random.permutation(lines):
            yield line
            size -= len(line) + 1


def write(kind: str, path: Path, size: int) -> Path:
    """A file of this kind."""
    join = {"crlf": "\r\n", "one line": " ", "chinese": "", "dna": ""}.get(kind, "\n")
    if kind in ("jsonl", "parquet"):
        lines = list(lines_of("lf", size))
        records = [join.join(lines[start : start + 60]) for start in range(0, len(lines), 60)]
        path = path.with_name(f"text.{kind}")
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"text": records}), path)
        else:
            with path.open("w") as file:
                file.writelines(json.dumps({"text": record}) + "\n" for record in records)
        return path
    with path.open("w", newline="") as file:
        for line in lines_of(kind, size):
            file.write(line + join)
    return path


def ours(source: str, tokenizer: str | None) -> Row:
    """Prepare the tokens of a file."""
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        tokens = prepare_tokens(DataConfig(source=source, tokenizer=tokenizer), Path(cache))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": len(tokens.train) + len(tokens.val), "bytes": tokens.readings[0].bytes}


def peer(source: str, path: str) -> Row:
    """Encode the same text by the library alone."""
    tokenizer = load_tokenizer(Path(path))
    batches, batch, chars, size = [], [], 0, 0
    pieces_module.PIECE_CHARS = PEER_CHARS
    for piece in pieces_module.pieces(scan_text(source).fragments(), fits_of(tokenizer)):
        batch.append(piece.text)
        chars, size = chars + len(piece.text), size + len(piece.text.encode())
        if chars >= BATCH_CHARS:
            batches.append(batch)
            batch, chars = [], 0
    batches.append(batch)
    began = time.perf_counter()
    count = sum(len(one.ids) for batch in batches for one in tokenizer.encode_batch(batch, add_special_tokens=False))
    return {"seconds": time.perf_counter() - began, "tokens": count, "bytes": size}


def measured(arm: str, *arguments: str) -> Row:
    """One arm in a process of its own, with its peak memory."""
    command = [sys.executable, __file__, "--arm", arm, *arguments]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


def row_of(kind: str, size: int, rounds: int, folder: Path) -> Row:
    """All arms of one kind of text."""
    source = str(write(kind, folder / "text.txt", size))
    texts = [text for text, _ in zip((text for text, _ in scan_text(source).fragments()), range(300), strict=False)]
    tokenizer = str(folder / "tokenizer.json")
    train_tokenizer([text[:100_000] for text in texts], 8192).save(tokenizer)
    baseline = measured("nothing")["peak_bytes"]
    found: dict[str, list[Row]] = {"ours": [], "peer": []}
    for number in range(rounds):
        for arm in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            found[arm].append(measured(arm, source, tokenizer))
    trains = measured("trains", source)
    speeds = {arm: [row["bytes"] / row["seconds"] / 1e6 for row in rows] for arm, rows in found.items()}
    ratios = [one / other for one, other in zip(speeds["ours"], speeds["peer"], strict=True)]
    peak = max(row["peak_bytes"] for row in [*found["ours"], trains]) - baseline
    os.unlink(source)
    return {
        "kind": kind,
        "rounds": rounds,
        "bytes": found["ours"][0]["bytes"],
        "tokens": found["ours"][0]["tokens"],
        "mb_per_s": round(statistics.median(speeds["ours"]), 2),
        "peer_mb_per_s": round(statistics.median(speeds["peer"]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "trains_mb_per_s": round(trains["bytes"] / trains["seconds"] / 1e6, 2),
        "peak_bytes_per_byte": round(peak / found["ours"][0]["bytes"], 2),
    }


def main() -> None:
    """Run, print, write the JSON."""
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data.json")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm is not None:
        arms: dict[str, Any] = {
            "ours": ours,
            "peer": peer,
            "trains": lambda source: ours(source, None),
            "nothing": dict,
        }
        found = arms[options.arm](*options.arguments)
        # Not getrusage, which goes on counting from the process that started this one.
        peak = 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])
        print(json.dumps(found | {"peak_bytes": peak}))
        return
    rows = []
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row_of(kind, options.mb * 10**6, options.rounds, Path(folder)))
            print(rows[-1], flush=True)
    about = {
        "command": " ".join(["python tests/bench/data.py", *map(shlex.quote, sys.argv[1:])]),
        "commit": commit(),
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": os.cpu_count()},
        "goals": {"ratio": GOAL_RATIO, "peak_bytes_per_byte": GOAL_BYTES},
    }
    options.out.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
