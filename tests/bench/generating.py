"""Measures what the key-value cache spares: `python tests/bench/generating.py` writes results/generating.json.

Samples 256 tokens after a prompt of 64 with `lmcore.export.sampling.generate`, and the same way without a cache: one
pass over the whole window for each token. The two take turns on the same random weights, and must write the same text.
The models are size s of configs/quick.yaml and the default of four layers, at a context into which the text fits and at
the default one of 128 tokens. The goal is 10 times the speed where the text fits.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from lmcore.config import ModelConfig
from lmcore.cores import cores
from lmcore.export.sampling import generate, next_token_probabilities, tokens_kept
from lmcore.model import TransformerLM

PROMPT, COUNT = 64, 256
SIZES = {
    "s of configs/quick.yaml": ModelConfig(d_model=128, num_layers=2, num_heads=4, d_ff=352),
    "4 layers, width 128": ModelConfig(),
}
TEMPERATURE = 0.8
ROOT = Path(__file__).resolve().parents[2]


def without_cache(model: TransformerLM, prompt: list[int], count: int) -> list[int]:
    """The text of `generate`, each token from one pass over all that the model sees."""
    context, generator = model.config.context_length, torch.Generator().manual_seed(0)
    window, text = prompt[-context:], []
    for _ in range(count):
        with torch.inference_mode():
            logits = model(torch.tensor([[window]]))[0, 0, -1]
        cumulated = next_token_probabilities(logits, TEMPERATURE).cumsum(0)
        drawn = torch.rand(1, dtype=torch.float64, generator=generator) * cumulated[-1]
        text.append(int(torch.searchsorted(cumulated, drawn, right=True)))
        window.append(text[-1])
        if len(window) > context:
            window = window[-tokens_kept(context) :]
    return text


def measure(config: ModelConfig, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds for COUNT tokens by each arm, in turns, and the median ratio of neighbouring runs.

    Also in CPU time of all threads, which other processes change less.
    """
    torch.set_num_threads(threads)
    model = TransformerLM(config)
    prompt = torch.randint(0, config.vocab_size, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    wall: dict[str, list[float]] = {"without": [], "with": []}
    cpu: dict[str, list[float]] = {"without": [], "with": []}
    same = True
    for _ in range(1 + repeats):  # the first one warms up
        began = time.perf_counter(), time.process_time()
        plain = without_cache(model, prompt, COUNT)
        middle = time.perf_counter(), time.process_time()
        cached = list(generate(model, prompt, COUNT, temperature=TEMPERATURE))
        ended = time.perf_counter(), time.process_time()
        for times, clock in ((wall, 0), (cpu, 1)):
            times["without"].append(middle[clock] - began[clock])
            times["with"].append(ended[clock] - middle[clock])
        same = same and plain == cached
    runs = {arm: [round(one, 4) for one in times[1:]] for arm, times in wall.items()}
    return {
        "context_length": config.context_length,
        "threads": threads,
        "same_text": same,
        "seconds": runs,
        "tokens_per_s": {arm: round(COUNT / statistics.median(times)) for arm, times in runs.items()},
        "times_faster": _ratio(wall),
        "times_faster_cpu": _ratio(cpu),
    }


def _ratio(seconds: dict[str, list[float]]) -> float:
    pairs = zip(seconds["without"][1:], seconds["with"][1:], strict=True)
    return round(statistics.median(without / cached for without, cached in pairs), 2)


def main() -> None:
    """Measure, print a line for each case, and write the JSON."""
    from lmcore.cores import processor
    from sweeps.provenance.manifest import commit, versions

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cases = []
    for name, config in SIZES.items():
        for context in (PROMPT + COUNT, config.context_length):
            for threads in dict.fromkeys((1, cores())):
                sized = config.model_copy(update={"context_length": context})
                cases.append({"model": name, **measure(sized, threads, repeats)})
                print({name: value for name, value in cases[-1].items() if name != "seconds"}, flush=True)
    result = {
        "command": "python tests/bench/generating.py",
        "versions": versions(),
        "hardware": {"processor": processor(), "cores": cores()},
        "commit": commit(),
        "prompt_tokens": PROMPT,
        "sampled_tokens": COUNT,
        "temperature": TEMPERATURE,
        "cases": cases,
    }
    out = Path(__file__).parent / "results" / "generating.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
