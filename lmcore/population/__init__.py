"""K models trained as one: their tensors, the training step, each slot's schedule, and their evaluation.

Weights, gradients and optimizer state lead with the slot dimension K, and nothing is reduced across it, so a slot
trains exactly as it would alone. `lmcore.trainer` drives what is here.
"""
