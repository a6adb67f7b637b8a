"""The core: model, loss, optimizer, schedule, data and trainer, for K trials as one population.

Nothing is imported here, so that `lmcore.columns` and `lmcore.config` load without torch. Import what you need:
`from lmcore.model import ModelConfig, TransformerLM`.
"""
