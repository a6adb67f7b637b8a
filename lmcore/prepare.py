"""The old name of `lmcore.corpus.prepare`, kept for scripts written for version 0.1."""

import warnings

from lmcore.corpus.prepare import prepare_tokens

__all__ = ["prepare_tokens"]

warnings.warn("lmcore.prepare is now called lmcore.corpus.prepare", DeprecationWarning, stacklevel=2)
