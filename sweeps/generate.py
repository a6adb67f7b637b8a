"""Sample text from a trial's model: `python sweeps/generate.py RUN "def "`, or `lmsweep generate`. See `--help`.

The text goes to stdout as it is sampled, everything else to stderr. Exit codes: 0 done; 2 wrong input (one line); 130
interrupted.
"""

import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: see run.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lmcore.errors import InputError, number_type, print_error
from lmcore.printable import printable
from sweeps.cli.trial_options import TrialParser

SCRIPT = "python sweeps/generate.py"
DESCRIPTION = """\
Sample text from the model of one trial, of any architecture.

Sampling continues PROMPT until --max-tokens tokens were sampled or the model ends the text.
"""
EXAMPLES = """\
examples:
  {prog} runs/quick "def "
      from the best complete trial of the largest size
  {prog} runs/quick "import " --trial best:xs --temperature 0
      from another size, always the most likely token
  {prog} runs/quick "def " --seed 1 --top-p 0.9 --max-tokens 1000
      a different and longer text, without the least likely tokens
"""


def parser(prog: str = SCRIPT) -> TrialParser:
    """The parser of the command line. A mistake is reported in one line, with exit code 2."""
    p = TrialParser(prog, DESCRIPTION, EXAMPLES)
    p.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="the beginning of the text (default: empty)")
    p.add_argument(
        "--max-tokens",
        type=number_type(int, "a number >= 1", lambda n: n >= 1),
        default=200,
        metavar="N",
        help="number of tokens to sample (default: 200)",
    )
    p.add_argument(
        "--temperature",
        type=number_type(float, "a number >= 0", lambda t: t >= 0),
        default=0.8,
        metavar="T",
        help="0 always takes the most likely token, 1 samples from the model's own distribution (default: 0.8)",
    )
    p.add_argument(
        "--top-k",
        type=number_type(int, "a number >= 1", lambda n: n >= 1),
        metavar="N",
        help="sample from the N most likely tokens only",
    )
    p.add_argument(
        "--top-p",
        type=number_type(float, "above 0 and at most 1", lambda share: 0 < share <= 1),
        metavar="P",
        help="sample from the smallest set of tokens with total probability P",
    )
    p.add_argument(
        "--seed",
        type=number_type(int, "a number from 0 to 2^63 - 1", lambda n: 0 <= n < 2**63),
        default=0,
        metavar="N",
        help="seed of the sampling; it repeats the text on the same machine (default: 0)",
    )
    return p


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Find the trial, print the prompt and its continuation, and return the exit code.

    >>> main(["runs/quick", "def ", "--max-tokens", "5"])  # doctest: +SKIP
    def __init__(self
    0
    """
    options = parser(prog).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a model may write characters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="replace")
    # These import torch and Optuna: not before the command line has been checked.
    import torch
    from tokenizers import Tokenizer

    from lmcore.export.sampling import generate, prompt_tokens, text_pieces
    from sweeps.cli.select_trial import select_trial

    try:
        selected = select_trial(options.run, options.trial, options.storage)
        if selected.tokenizer_json is None:
            raise InputError(
                f"RUN: must have a tokenizer to read and write text, but {options.run} was trained on token ids "
                "without one; sweep with data.tokenizer"
            )
        tokenizer = Tokenizer.from_str(selected.tokenizer_json)
        model = selected.trained.model.to("cuda" if torch.cuda.is_available() else "cpu")
        prompt = prompt_tokens(tokenizer, options.prompt, model.config.vocab_size, selected.end_of_text)
        for line in (*(f"Note: {note}" for note in selected.notes), selected.title):
            print(line, file=sys.stderr, flush=True)
        ids = generate(
            model,
            prompt,
            options.max_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            stop=selected.end_of_text,
        )
        print(options.prompt, end="", flush=True)
        # A model may write anything: what would steer the terminal is shown, and a file gets it as it is.
        shown = printable if sys.stdout.isatty() else str
        try:
            for piece in text_pieces(tokenizer, prompt, ids):
                print(shown(piece), end="", flush=True)
        finally:
            print(flush=True)
    except InputError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # `generate.py RUN | head` ends as quietly as `cat FILE | head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
