"""Save a trial's model as a Hugging Face folder: `python sweeps/export.py RUN --out DIR`, or `lmsweep export`.

Exit codes: 0 written; 2 wrong input (one line, nothing written); 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: see run.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lmcore.errors import InputError, print_error
from sweeps.cli.trial_options import TrialParser

SCRIPT = "python sweeps/export.py"
DESCRIPTION = """\
Save the model of one trial as a Hugging Face folder: weights (float32), config, tokenizer and model card.

It is a Llama or, with qk_norm, a Qwen3. Only pre-norm, rotary positions and SwiGLU can be exported; all else is free.
"""
EXAMPLES = """\
examples:
  {prog} runs/quick --out winner
      the best complete trial of the largest size, of those that can be exported
  {prog} runs/quick --trial best:xs --out winner-xs
      the best complete trial of size xs
  {prog} runs/ablation --trial baseline --out baseline
      the best trial of an experiment; or of an arm, such as tied or tied:xs
  {prog} runs/quick --trial xs-0003 --out xs-0003
      any trial that has a checkpoint: the best three or more of each study, and those that are running

then, with transformers:
  AutoModelForCausalLM.from_pretrained("winner"), AutoTokenizer.from_pretrained("winner")
"""


def main(argv: Sequence[str] | None = None, prog: str = SCRIPT) -> int:
    """Find the trial, write the folder, print what was written, and return the exit code.

    >>> main(["runs/quick", "--out", "winner"])  # doctest: +SKIP
    xs-0003 (complete): 295,424 parameters, tied, after 200 of 200 updates, val_loss 4.213
    Written to winner: README.md, config.json, generation_config.json, model.safetensors, tokenizer.json, ...
    0
    """
    parser = TrialParser(prog, DESCRIPTION, EXAMPLES)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    options = parser.parse_args(argv)
    try:
        check_empty(options.out)
        # These import torch and Optuna: not before the command line has been checked.
        from lmcore.export.llama import llama_files, unlike_llama, write_folder
        from sweeps.cli.model_card import model_card
        from sweeps.cli.select_trial import Purpose, select_trial
        from sweeps.provenance.resume import manifest_of
        from sweeps.rundir.folder import RunFolder
        from sweeps.spec.load import load_kept

        purpose = Purpose(
            "that can be exported",
            "give another one, or sample with lmsweep generate, which takes any architecture",
            lambda config: ", ".join(f"{name} is {value}" for name, value in unlike_llama(config).items()) or None,
        )
        selected = select_trial(options.run, options.trial, options.storage, purpose)
        model = selected.trained.model
        files = llama_files(model.config, model.slot_state_dict(0), selected.tokenizer_json, selected.end_of_text)
        folder = RunFolder(options.run.absolute())
        card = model_card(selected, load_kept(folder.sweep_yaml).name, manifest_of(folder), options.out.resolve().name)
        files = {"README.md": card.encode("utf-8"), **files}
        try:
            write_folder(options.out, files)
        except OSError as error:
            raise InputError(_unwritable(options.out, error)) from None
    except InputError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return 130
    for note in selected.notes:
        print_error(f"Note: {note}")
    print(selected.title)
    print(f"Written to {options.out}: {', '.join(files)}")
    if selected.tokenizer_json is None:
        print("Without a tokenizer: the sweep was trained on token ids.")
    return 0


def check_empty(out: Path) -> None:
    """Refuse an output folder that has files in it: nothing is overwritten.

    Raises:
        InputError: `out` is a file, is not empty, or cannot be read.
    """
    try:
        if out.is_dir():
            count = sum(1 for _ in out.iterdir())
            found = f"holds {count} files" if count else None
        else:
            found = "is a file" if out.exists() or out.is_symlink() else None
    except OSError as error:
        raise InputError(_unwritable(out, error)) from None
    if found:
        raise InputError(f"--out: must be a new or an empty folder (got {out}, which {found}); give another")


def _unwritable(out: Path, error: OSError) -> str:
    return f"--out: must be a folder that can be written (got {out}: {error.strerror}); give another"


if __name__ == "__main__":
    sys.exit(main())
