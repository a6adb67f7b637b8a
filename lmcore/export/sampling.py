"""Sampling from a trained model: token ids one at a time, and their text.

Works for every architecture of `lmcore.model`, on the device of the model. A key-value cache (`lmcore.export.decoder`)
spares reading a token twice while the text fits into the context. A model was never trained on more tokens than that.
So when the context is full, the oldest quarter of it is forgotten, and the rest is read again from position 0: every
token is predicted from at least the last 3/4 of context_length tokens, and never from more than context_length.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lmcore.errors import InputError
from lmcore.export.decoder import Decoder
from lmcore.model import TransformerLM

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for incomplete or invalid UTF-8 in decoded text


def next_token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """The distribution that the next token is sampled from: logits [V] -> float64 probabilities [V] on the CPU.

    softmax(logits / temperature), restricted to the `top_k` most probable tokens, then to the fewest of these that
    hold at least `top_p` of the remaining probability. At least one token remains. Temperature 0 is the limit: all
    probability is on the most probable token, or on the first of several equal ones.

    >>> next_token_probabilities(torch.tensor([0.0, 0.0, -1.0]), top_k=2)
    tensor([0.5000, 0.5000, 0.0000], dtype=torch.float64)
    """
    logits = logits.detach().cpu().double()
    if temperature == 0:
        return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
    # Subtract the maximum first: dividing by a temperature near 0 would give infinities, and their softmax NaN.
    probabilities = ((logits - logits.max()) / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return probabilities
    ordered, ids = probabilities.sort(descending=True, stable=True)
    if top_k is not None:
        ordered[top_k:] = 0
    if top_p is not None:
        more_probable = ordered.cumsum(-1) - ordered  # total probability of all more probable tokens
        ordered[more_probable >= top_p * ordered.sum()] = 0
    return torch.zeros_like(ordered).scatter_(0, ids, ordered / ordered.sum())


def generate(
    model: TransformerLM,
    prompt: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Sample up to `max_tokens` token ids that continue `prompt`. The token `stop` ends the text and is not yielded.

    The same seed gives the same ids on the same machine, with the same torch and number of threads. torch's global
    generator is neither read nor changed.

    Raises ValueError if the prompt is empty or has ids outside the vocabulary, or if the model has several slots (use
    `slot_view`); InputError if the logits are not finite, because training diverged.

    >>> for token in generate(model, prompt=[464, 318], max_tokens=100, stop=0):
    ...     print(token)
    """
    if not prompt:
        raise ValueError("the prompt must hold at least one token; begin with the one that ends a text")
    decoder, context_length = Decoder(model), model.config.context_length
    generator = torch.Generator().manual_seed(seed)
    window = unread = list(prompt)[-context_length:]  # what the model sees, and what of it is not in the cache
    for _ in range(max_tokens):
        logits = decoder.read(unread).cpu()  # [V]
        if not math.isfinite(logits.sum()):
            raise InputError("a model must predict finite numbers, but this one's training diverged; take another")
        token = _draw(next_token_probabilities(logits, temperature, top_k, top_p), generator)
        if token == stop:
            return
        yield token
        window.append(token)
        unread = [token]
        if len(window) > context_length:
            window = unread = window[-tokens_kept(context_length) :]
            decoder.clear()


def tokens_kept(context_length: int) -> int:
    """How many of the newest tokens are read again when a text has outgrown the context.

    >>> tokens_kept(128)
    96
    """
    return max(1, 3 * context_length // 4)


def _draw(probabilities: Tensor, generator: torch.Generator) -> int:
    """A token of the distribution [V]: the first at which the cumulated probability exceeds a uniform number."""
    # torch.multinomial draws a number for every token of the vocabulary, which takes five times as long.
    cumulated = probabilities.cumsum(0)
    uniform = torch.rand(1, dtype=torch.float64, generator=generator) * cumulated[-1]
    return int(torch.searchsorted(cumulated, uniform, right=True))  # never one of probability 0


def prompt_tokens(tokenizer: Tokenizer, prompt: str, vocab_size: int, end_of_text: int | None = None) -> list[int]:
    """Encode a prompt as text was encoded for training. An empty prompt becomes `end_of_text`, if that is given.

    No token is added, and special tokens spelled out in the prompt are plain text. Raises InputError if the prompt has
    no tokens, or a token outside the model's vocabulary of `vocab_size`.
    """
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    if not ids and end_of_text is not None:
        ids = [end_of_text]
    if not ids:
        raise InputError(
            f"PROMPT: must not be empty, as the tokenizer has no end-of-text token to begin with (got {prompt!r}); "
            "give some text"
        )
    if max(ids) >= vocab_size:
        raise InputError(
            f"PROMPT: must be of the model's {vocab_size} tokens (got {tokenizer.id_to_token(max(ids))!r}, "
            f"token {max(ids)}); give other text"
        )
    return ids


def text_pieces(tokenizer: Tokenizer, prompt: Sequence[int], ids: Iterable[int]) -> Iterator[str]:
    """Decode `ids`, which continue `prompt`, to pieces of text as they arrive.

    A character may take several tokens, so a piece is yielded once it ends in a complete character. Each step decodes
    the previous piece together with the new tokens, because some tokenizers write the space before a word depending on
    what precedes it.

    >>> "".join(text_pieces(tokenizer, [0], tokenizer.encode("some text").ids))
    'some text'
    """
    tokens = list(prompt)
    begin, end = 0, len(tokens)  # tokens[begin:end] is the previous piece
    piece = ""
    for token in ids:
        tokens.append(token)
        previous, extended = tokenizer.decode(tokens[begin:end]), tokenizer.decode(tokens[begin:])
        piece = extended[len(previous) :]
        if piece and not piece.endswith(REPLACEMENT):
            yield piece
            begin, end, piece = end, len(tokens), ""
    if piece:
        yield piece
