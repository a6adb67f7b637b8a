"""From text or token files to `Tokens`: read documents, train or load a tokenizer, encode, split, cache.

`prepare.prepare_tokens(DataConfig)` is the entry point; everything else in this package is a step of it.
"""
