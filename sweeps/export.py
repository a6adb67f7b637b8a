"""Write a trial's model as a Hugging Face Llama folder: `python sweeps/export.py RUN --out DIR`. See `--help`.

Exit codes: 0 written, 2 wrong input (one line, nothing written), 130 interrupted.
"""

import sys
from pathlib import Path

# As a script this file has sweeps/ in front of sys.path; its neighbours must not pass for top-level modules there.
ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0]).resolve() == ROOT / "sweeps":
    sys.path[0] = str(ROOT)

from lmcore.errors import InputError  # noqa: E402
from sweeps.cli.trial_options import TrialParser  # noqa: E402

DESCRIPTION = """\
Write the model of one trial of a sweep as the folder of a Hugging Face Llama: weights (float32), config, tokenizer.

For the default architecture alone: pre-norm, rotary positions, SwiGLU; tied or untied.
"""
EPILOG = """\
examples:
  python sweeps/export.py runs/quick --out winner
      the best complete trial of the largest size
  python sweeps/export.py runs/quick --trial best:xs --out winner-xs
  python sweeps/export.py runs/quick --trial xs-0003 --out xs-0003
      one of the three best of its size, or one that is still running

then, with transformers:
  AutoModelForCausalLM.from_pretrained("winner"), AutoTokenizer.from_pretrained("winner")
"""


def check_out(out: Path) -> None:
    """Raise InputError unless a folder can appear there: nothing is overwritten."""
    try:
        if out.is_dir():
            found = f"holds {sum(1 for _ in out.iterdir())} files" if any(out.iterdir()) else None
        else:
            found = "is a file" if out.exists() or out.is_symlink() else None
    except OSError as error:
        raise InputError(_unwritable(out, error)) from None
    if found:
        raise InputError(f"--out: must be a new or an empty folder (got {out}, which {found}); give another")


def _unwritable(out: Path, error: OSError) -> str:
    return f"--out: must be a folder that can be written (got {out}: {error.strerror}); give another"


def main(argv: list[str] | None = None) -> int:
    """Find the trial, write the folder, say what was written; the process's exit code."""
    parser = TrialParser("export.py", DESCRIPTION, EPILOG)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    options = parser.parse_args(argv)
    try:
        check_out(options.out)
        # With torch and Optuna, and so only when the command line is right.
        from lmcore.export.llama import llama_files, write_folder
        from sweeps.cli.select_trial import select_trial

        chosen = select_trial(options.run, options.trial)
        model = chosen.trained.model
        files = llama_files(model.config, model.slot_state_dict(0), chosen.tokenizer_json)
        try:
            write_folder(options.out, files)
        except OSError as error:
            raise InputError(_unwritable(options.out, error)) from None
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for line in chosen.skipped:
        print(f"Note: {line}", file=sys.stderr)
    print(chosen.title)
    print(f"Written to {options.out}: {', '.join(files)}")
    if chosen.tokenizer_json is None:
        print("Without a tokenizer: the sweep was trained on token ids and knows none.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
