"""Who may import whom: the contracts of pyproject.toml, and what must load without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_layers_hold_indirect_imports_included():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout


def test_a_driver_checks_its_input_and_prepares_data_without_torch_ray_or_optuna():
    code = (
        "import sys, lmcore.corpus.prepare, lmcore.params, lmcore.device, sweeps.run\n"
        "print(sorted({'torch', 'ray', 'optuna', 'wandb', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lmcore_trains_in_a_process_that_has_neither_ray_nor_optuna_nor_pandas():
    code = (
        "import sys\n"
        "for name in ('ray', 'optuna', 'wandb', 'pandas', 'sweeps', 'analysis'):\n"
        "    sys.modules[name] = None\n"  # importing it raises from now on
        "import numpy as np\n"
        "from lmcore.config import ModelConfig, RunSpec, TrainConfig\n"
        "from lmcore.corpus.tokens import Tokens\n"
        "from lmcore.trainer import Trainer\n"
        "ids = np.arange(400) % 7\n"
        "model = ModelConfig(vocab_size=7, d_model=16, num_layers=1, num_heads=2, d_ff=16, context_length=8)\n"
        "run = RunSpec(model=model, train=TrainConfig(steps=4, batch_size=2, eval_every=2))\n"
        "print(len(list(Trainer([run], Tokens.of(ids[:300], ids[300:], 7)))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


OLD_NAMES = {  # what the README of version 0.1 told people to import
    "from lmcore.prepare import prepare_tokens": "lmcore.corpus.prepare",
    "from analysis.tables import parameter_table": "analysis.tables.trials.parameter_table",
    "from analysis.paired import compare": "analysis.stats.comparison",
    "from analysis.scaling import fit_scaling, points_of": "analysis.scaling.fit.fit_scaling",
}


@pytest.mark.parametrize("statement", OLD_NAMES)
def test_names_that_were_documented_before_still_import_and_say_their_new_name(statement):
    command = [sys.executable, "-W", "always::DeprecationWarning", "-c", statement]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert OLD_NAMES[statement] in done.stderr
