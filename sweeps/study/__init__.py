"""Optuna: one study per size, samplers and pruners by name, and the ledger, the only reader and writer of studies."""
