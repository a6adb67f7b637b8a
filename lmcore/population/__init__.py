"""K models trained as one population: their tensors, the training step, each slot's progress, and their evaluation.

`lmcore.model` explains K, and `lmcore.trainer` drives what is here.
"""
