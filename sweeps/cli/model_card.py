"""The model card of an exported trial: README.md with the metadata that the Hugging Face Hub reads.

All text that comes from the run's folder is escaped, because the folder may be a stranger's. Of paths only the last
part is shown. The license is left to the user.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lmcore import columns as col
from lmcore.config import FIELD_ROLES, RunSpec, flatten
from lmcore.corpus.text_files import STDLIB
from lmcore.params import count_parameters, estimate_parameters, flops_per_token
from lmcore.printable import printable
from sweeps.cli.ranked_settings import RankedSetting
from sweeps.cli.select_trial import SelectedTrial

SHOWN_CONSTANTS = ("train.device", "data.vocab_size")
BASIS = {
    "confirmed": "mean over {n} seeds that the search did not use",
    "all runs": "mean over {n} seeds",
    "searched": "mean over {n} seeds of the search, which selected it: other seeds are worse on average",
}
SPECIAL = re.compile(r"([\\`*_\[\]|~$])")


def model_card(selected: SelectedTrial, sweep: str, manifest: Mapping[str, Any], folder_name: str) -> str:
    """The text of README.md.

    Args:
        sweep: the sweep's name.
        manifest: the content of its manifest.json; {} if there is none.
        folder_name: of the exported folder, for the code that loads it.

    Example:
        files["README.md"] = model_card(select_trial(Path("runs/quick")), "quick", manifest, "winner").encode()
    """
    run = selected.trained.run
    family, count = "Qwen3" if run.model.qk_norm else "Llama", count_parameters(run.model).total
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"model_name: {json.dumps(f'{sweep} {selected.id}')}",
        f"tags: [lmsweep, {family.lower()}, research]",
        "# license: the license of your weights goes here, e.g. apache-2.0",
        "---",
    ]
    parts = [
        "\n".join(head),
        f"# {escaped(sweep)}: {escaped(selected.id)}",
        f"A {family} of {count:,} parameters, trained from scratch in the lmsweep sweep {escaped(sweep)}.",
        "## Result\n\n" + _table(_result(selected, manifest)),
        "## How to load it\n\n" + _loading(selected, folder_name),
        "## Training data\n\n" + _table(_data(selected, manifest)),
        "## Hyperparameters\n\n" + _table(_hyperparameters(run)),
        "## Provenance\n\n" + _table(_provenance(selected, manifest)),
        "## Limits\n\n" + _limits(selected),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(value: object) -> str:
    r"""Text for one line of Markdown, without markup, HTML or control characters.

    >>> escaped("a|b <img>\n_c_")
    'a\\|b &lt;img&gt; \\_c\\_'
    """
    line = " ".join(printable(str(value)).split())
    for character, entity in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": ":&#47;&#47;"}.items():
        line = line.replace(character, entity)
    return SPECIAL.sub(r"\\\1", line)


def _table(rows: Mapping[str, object]) -> str:
    """Two columns; rows without a value are left out."""
    lines = [f"| {escaped(name)} | {escaped(value)} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _result(selected: SelectedTrial, manifest: Mapping[str, Any]) -> dict[str, object]:
    """The row of the parameter table, and the loss of these weights."""
    trained, run, plan = selected.trained, selected.trained.run, selected.recorded.plan
    tokens, row = trained.step * run.tokens_per_step, trained.last_row or {}
    reported = row.get(col.STEP) == trained.step and row.get(col.VAL_LOSS) is not None
    own = col.quoted_loss(row) if reported else math.nan
    error = row.get(col.VAL_LOSS_SE if row.get(col.FINAL_VAL_LOSS) is None else col.FINAL_VAL_LOSS_SE)
    # Only whole runs have a setting, and these weights may be of an earlier update.
    setting = selected.setting if trained.step == run.steps else None
    loss = own if setting is None else setting.mean
    per_token = _number(manifest.get("data"), "bytes_per_token")
    finite = math.isfinite(loss)
    return {
        "size": plan.size,
        "arm": plan.arm.name,
        "experiment": selected.recorded.experiment,
        "embeddings": "tied" if run.model.tie_embeddings else "untied",
        "parameters (estimate)": f"{estimate_parameters(run.model):,}",
        "parameters (exact)": f"{count_parameters(run.model).total:,}",
        "parameters (non-embedding)": f"{count_parameters(run.model).non_embedding:,}",
        "training tokens": f"{tokens:,}",
        "training FLOPs": f"{flops_per_token(run.model) * tokens:.3g}",
        "validation loss of the setting": None if setting is None else _setting_loss(setting),
        "validation loss of these weights": f"{own:.4f}{_error(error)} nats per token" if math.isfinite(own) else None,
        "perplexity": f"{math.exp(loss):.2f}" if finite else None,
        "bits per byte": f"{loss / math.log(2) / per_token:.4f}" if finite and per_token else None,
        "updates": f"{trained.step} of {run.steps}",
        "trial": f"{selected.id} ({selected.status})",
    }


def _setting_loss(setting: RankedSetting) -> str:
    """With its interval, if there is one."""
    n, half = len(setting.losses), setting.half
    if half is None:
        luck = "; the lowest loss of a search is luckier than another seed" if setting.basis == "searched" else ""
        return f"{setting.mean:.3f} nats per token (one seed{luck})"
    basis = BASIS[setting.basis].format(n=n)
    return f"{setting.mean:.3f} +- {half:.3f} nats per token ({basis}; +- is half of a 95 % interval)"


def _error(error: object) -> str:
    return (
        ""
        if not isinstance(error, float) or not math.isfinite(error)
        else f" (standard error over windows {error:.4f})"
    )


def _data(selected: SelectedTrial, manifest: Mapping[str, Any]) -> dict[str, object]:
    data, recorded = selected.trained.run.data, manifest.get("data")
    own = "a byte-level BPE that was trained on the text" if selected.tokenizer_json is not None else None
    counts = {name: _number(recorded, name) for name in ("train_tokens", "val_tokens")}
    return {
        "source": _source(data.source),
        "validation source": None if data.val_source is None else _source(data.val_source),
        "tokens for training": None if counts["train_tokens"] is None else f"{counts['train_tokens']:,.0f}",
        "tokens for validation": None if counts["val_tokens"] is None else f"{counts['val_tokens']:,.0f}",
        "tokenizer": own if data.tokenizer is None else _source(data.tokenizer),
        "vocabulary": f"{selected.trained.run.model.vocab_size:,} tokens",
        "fingerprint (sha256 of the tokens)": selected.trained.data_fingerprint,
    }


def _source(source: str) -> str:
    return "stdlib: the source code of Python's standard library" if source == STDLIB else PurePath(source).name


def _hyperparameters(run: RunSpec) -> dict[str, object]:
    """All fields of the run but those that say where and how often something is done."""
    return {
        path: value
        for path, value in flatten(run).items()
        if value is not None and (FIELD_ROLES[path] != "sweep constant" or path in SHOWN_CONSTANTS)
    }


def _loading(selected: SelectedTrial, folder_name: str) -> str:
    context = selected.trained.run.model.context_length
    name = json.dumps(printable(folder_name))
    if selected.tokenizer_json is None:
        code = f"from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained({name})"
        return f"```python\n{code}\n```\n\nThere is no tokenizer: the model was trained on token ids."
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model, tokenizer = AutoModelForCausalLM.from_pretrained({name}), AutoTokenizer.from_pretrained({name})\n"
        'ids = model.generate(**tokenizer("Once", return_tensors="pt"), do_sample=True, temperature=0.8)\n'
        "print(tokenizer.decode(ids[0]))"
    )
    return f"```python\n{code}\n```\n\nPrompt and continuation must fit into {context} tokens."


def _provenance(selected: SelectedTrial, manifest: Mapping[str, Any]) -> dict[str, object]:
    versions, hardware = manifest.get("versions"), manifest.get("hardware")
    packages = versions.items() if isinstance(versions, dict) else ()
    processor = hardware.get("processor") if isinstance(hardware, dict) else None
    started, commit = manifest.get("created"), manifest.get("commit")
    return {
        "sweep started": started,
        "commit of lmsweep": commit,
        "processor": processor,
        "device, dtype": f"{selected.trained.run.train.device}, {selected.trained.run.train.dtype}",
        "seeds (weights, data)": f"{selected.trained.run.train.seed}, {selected.trained.run.data.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in packages) or None,
    }


def _limits(selected: SelectedTrial) -> str:
    run = selected.trained.run
    return (
        f"This is a small research model: {count_parameters(run.model).total:,} parameters, trained on "
        f"{selected.trained.step * run.tokens_per_step:,} tokens to compare hyperparameters. What it writes is neither "
        "correct nor safe, and it may repeat its training data. It follows no instructions. Only its validation loss "
        f"was measured, on data like its training data. It knows no position beyond {run.model.context_length}."
    )


def _number(section: object, name: str) -> float | None:
    """A number of the manifest, which anybody may have edited."""
    value = section.get(name) if isinstance(section, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None
