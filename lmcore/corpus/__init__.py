"""From text or token files to `Tokens`: read documents, train or load a tokenizer, encode, split, cache.

`lmcore.corpus.prepare.prepare_tokens(DataConfig)` is the entry point. Everything else here is one of its steps.
"""
