"""Sample text from a trial's model: `python sweeps/generate.py RUN "def "`. See `--help`.

The text goes to stdout as it is made, everything else to stderr. Exit codes: 0 done, 2 wrong input (one line), 130
interrupted.
"""

import signal
import sys
from pathlib import Path

# As a script this file has sweeps/ in front of sys.path; its neighbours must not pass for top-level modules there.
ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0]).resolve() == ROOT / "sweeps":
    sys.path[0] = str(ROOT)

from lmcore.errors import InputError  # noqa: E402
from sweeps.cli.trial_options import TrialParser, number  # noqa: E402

DESCRIPTION = """\
Sample text from the model of one trial of a sweep, of any architecture.

It goes on from PROMPT until --max-tokens are made, or the model ends the text.
"""
EPILOG = """\
examples:
  python sweeps/generate.py runs/quick "def "
      from the best complete trial of the largest size
  python sweeps/generate.py runs/quick "import " --trial best:xs --temperature 0
      from another size, always the likeliest token
  python sweeps/generate.py runs/quick "def " --seed 1 --top-p 0.9 --max-tokens 1000
      other text, without the unlikeliest tokens, and more of it
"""


def parser() -> TrialParser:
    """The parser of the command line."""
    p = TrialParser("generate.py", DESCRIPTION, EPILOG)
    p.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="the text's beginning (default: none)")
    p.add_argument(
        "--max-tokens",
        type=number(int, "a number >= 1", lambda n: n >= 1),
        default=200,
        metavar="N",
        help="tokens to sample at most (default: 200)",
    )
    p.add_argument(
        "--temperature",
        type=number(float, "a number >= 0", lambda t: t >= 0),
        default=0.8,
        metavar="T",
        help="0 takes the likeliest token, 1 samples as the model predicts (default: 0.8)",
    )
    p.add_argument(
        "--top-k",
        type=number(int, "a number >= 1", lambda n: n >= 1),
        metavar="N",
        help="sample from the N likeliest tokens only",
    )
    p.add_argument(
        "--top-p",
        type=number(float, "above 0 and at most 1", lambda share: 0 < share <= 1),
        metavar="P",
        help="sample from the fewest tokens that together have probability P",
    )
    p.add_argument(
        "--seed",
        type=number(int, "a number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63),
        default=0,
        metavar="N",
        help="the same seed gives the same text on the same machine (default: 0)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Find the trial, print the prompt and what follows; the process's exit code."""
    options = parser().parse_args(argv)
    # With torch and Optuna, and so only when the command line is right.
    import torch
    from tokenizers import Tokenizer

    from lmcore.corpus.tokenizer import end_of_text_token
    from lmcore.export.sampling import generate, prompt_tokens, text_pieces
    from sweeps.cli.select_trial import select_trial

    try:
        chosen = select_trial(options.run, options.trial)
        if chosen.tokenizer_json is None:
            raise InputError(
                f"RUN: must have a tokenizer to read and write text, but {options.run} was trained on token ids "
                "without one; sweep with data.tokenizer"
            )
        tokenizer = Tokenizer.from_str(chosen.tokenizer_json)
        model = chosen.trained.model.to("cuda" if torch.cuda.is_available() else "cpu")
        prompt = prompt_tokens(tokenizer, options.prompt, model.config.vocab_size)
        for line in (*(f"Note: {line}" for line in chosen.skipped), chosen.title):
            print(line, file=sys.stderr, flush=True)
        end_of_text = end_of_text_token(tokenizer)
        ids = generate(
            model,
            prompt,
            options.max_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            stop=None if end_of_text is None else end_of_text[1],
        )
        print(options.prompt, end="", flush=True)
        try:
            for piece in text_pieces(tokenizer, prompt, ids):
                print(piece, end="", flush=True)
        finally:
            print(flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `generate.py RUN | head` ends as quietly as `cat FILE | head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if hasattr(sys.stdout, "reconfigure"):  # a model may write what the terminal's encoding lacks
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
