"""Optuna: the ledger with one study per size, samplers and schedulers by name, storage, and checks before a resume."""
