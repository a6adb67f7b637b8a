"""Spaces whose entries depend on each other, and a sweep for them."""

from sweeps.spec.sweep_spec import SweepSpec

LR = {"low": 1e-3, "high": 2e-2, "log": True}
WIDTH = {
    "choices": [
        {"model.d_model": 64, "model.d_ff": 176, "model.num_heads": 2},
        {"model.d_model": 128, "model.d_ff": 352, "model.num_heads": 4},
    ]
}
LABELS = ("d_model=64, d_ff=176, num_heads=2", "d_model=128, d_ff=352, num_heads=4")
LINKED = {
    "optim.lr": {**LR, "times": "sqrt(train.batch_size / 16)"},
    "width": WIDTH,
    "model.ffn": ["swiglu", "gelu"],
    "optim.weight_decay": {"low": 0.0, "high": 0.3, "when": {"model.ffn": "swiglu"}},
    "optim.beta2": {"choices": [0.9, 0.99], "when": {"model.ffn": ["gelu"], "model.d_model": 128}},
    "train.batch_size": {"low": 8, "high": 32, "step": 8},
    "optim.min_lr_ratio": {"equals": "model.d_model / 1280"},
}


def linked(space=LINKED, method="random", trials=8, **values):
    """A short sweep; `values` are its other sections, or go into `search` and `train`."""
    search = {"method": method, "trials": trials, "scheduler": "none", "startup_trials": 3}
    search |= {"allow_unequal_budgets": True, **values.pop("search", {})}
    train = {"steps": 40, "eval_every": 10, **values.pop("train", {})}
    return SweepSpec.model_validate({"name": "linked", "train": train, "search": search, "space": space, **values})
