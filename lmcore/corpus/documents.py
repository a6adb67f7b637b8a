"""Which document each validation window begins in. Losses of windows of one document are not independent.

Loads without torch. Where the windows begin is in `lmcore.corpus.windows`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lmcore.corpus.mapped_ids import MappedIds, id_chunks
from lmcore.corpus.tokenizer import end_of_text_token
from lmcore.corpus.tokens import Tokens
from lmcore.corpus.windows import window_starts


def window_documents(tokens: Tokens, context_length: int, num_windows: int) -> NDArray[np.int32] | None:
    """Number of the document, from 0, in which each validation window begins: [E], in the order of the windows.

    A document ends with the end-of-text token of the tokenizer that made the tokens. None if the documents are unknown:
    there is no tokenizer, it has no such token, or the token does not occur in the validation data.

    >>> documents = window_documents(load_tokens(Path("runs/quick/tokens")), 128, 48)  # doctest: +SKIP
    """
    end = tokens.end_of_text
    if end is None and tokens.tokenizer_json is not None:  # kept by a version that did not note it
        token = end_of_text_token(Tokenizer.from_str(tokens.tokenizer_json))
        end = None if token is None else token[1]
    starts = window_starts(len(tokens.val), context_length, num_windows)
    return None if end is None else documents_at(tokens.val, end, starts)


def documents_at(
    ids: NDArray[np.integer[Any]] | MappedIds, end_of_text: int, starts: NDArray[np.int64]
) -> NDArray[np.int32] | None:
    """Number of the document at each position in `starts`; None if the token `end_of_text` does not occur in `ids`.

    The token belongs to the document that it ends.

    >>> documents_at(np.array([5, 6, 0, 7, 0, 8]), end_of_text=0, starts=np.array([0, 2, 3, 5]))
    array([0, 0, 1, 2], dtype=int32)
    """
    found, before = [np.empty(0, np.int64)], 0
    for chunk in id_chunks(ids):
        found.append(np.flatnonzero(chunk == end_of_text) + before)
        before += len(chunk)
    ends = np.concatenate(found)
    return np.searchsorted(ends, starts, side="left").astype(np.int32) if len(ends) else None
