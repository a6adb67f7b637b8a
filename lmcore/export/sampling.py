"""Sampling from a trained model: token ids one after the other, and the text that they are.

For every architecture of `lmcore.model`, on whatever device the model is. There is no cache of keys and values: a token
costs one forward pass over at most context_length tokens, however long the text grows, because older ones are cut off.

Shapes: T time, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lmcore.errors import InputError
from lmcore.export.trained_model import end_of_text_token
from lmcore.model import TransformerLM

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no UTF-8, or not yet, decode to


def next_token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """What the next token is sampled from: float64 probabilities [V] on the CPU, from logits [V].

    softmax(logits / temperature), then only the `top_k` likeliest tokens, then of these only the fewest whose share of
    what is left reaches `top_p`; at least one stays. Temperature 0 is its limit: the likeliest token, the first of
    equal ones.
    """
    logits = logits.detach().to("cpu", torch.float64)
    if temperature == 0:
        return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
    # The maximum first: a temperature near 0 would make infinities of the logits, and NaN of their softmax.
    ordered, ids = ((logits - logits.max()) / temperature).softmax(-1).sort(descending=True, stable=True)
    if top_k is not None:
        ordered[top_k:] = 0
    if top_p is not None:
        before = ordered.cumsum(-1) - ordered  # share of all likelier tokens
        ordered[before >= top_p * ordered.sum()] = 0
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
    """At most `max_tokens` token ids that go on from `prompt`; the token `stop` ends them, and is not among them.

    The same seed gives the same ids (same machine, torch and number of threads). torch's global generator is neither
    read nor changed.

    Raises:
        ValueError: an empty prompt, ids beyond the vocabulary, or a model of several slots (take its `slot_view`).
        InputError: the model predicts numbers that are not finite, because its training diverged.
    """
    if not prompt:
        raise ValueError("the prompt must hold at least one token; begin with the one that ends a text")
    device, context_length = model.token_embeddings.weight.device, model.config.context_length
    generator = torch.Generator().manual_seed(seed)
    window = list(prompt)
    for _ in range(max_tokens):
        window = window[-context_length:]
        with torch.inference_mode():
            logits = model(torch.tensor([[window]], device=device))[0, 0, -1]  # [V]
        if not logits.isfinite().all():
            raise InputError("a model must predict finite numbers, but this one's training diverged; take another")
        probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
        token = int(torch.multinomial(probabilities, 1, generator=generator))
        if token == stop:
            return
        yield token
        window.append(token)


def prompt_tokens(tokenizer: Tokenizer, prompt: str, vocab_size: int) -> list[int]:
    """The prompt as a model of `vocab_size` tokens saw text in training; an empty one is the end of the text before.

    As there, special tokens spelled out in the text are plain text, and none is added. At least one token.

    Raises:
        InputError: the prompt has no tokens, or one that the model does not have.
    """
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    if not ids and (end_of_text := end_of_text_token(tokenizer)) is not None:
        ids = [end_of_text[1]]
    if not ids:
        raise InputError(
            f"PROMPT: must hold text, as the tokenizer has no token to begin one behind (got {prompt!r}); give some"
        )
    if max(ids) >= vocab_size:
        raise InputError(
            f"PROMPT: must be of the model's {vocab_size} tokens (got {tokenizer.id_to_token(max(ids))!r}, "
            f"token {max(ids)}); give other text"
        )
    return ids


def text_pieces(tokenizer: Tokenizer, prompt: Sequence[int], ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids` as they arrive; joined, it is what the ids decode to behind the prompt.

    A character may be made of several tokens, so a piece waits until it ends in a whole one. Only the last piece and
    the tokens since are decoded each time: tokenizers that write a space where a word begins need what came before.
    """
    tokens = list(prompt)
    begin, told = 0, len(tokens)  # tokens[begin:told] is the piece before
    piece = ""

    def untold() -> str:
        before, now = (tokenizer.decode(part) for part in (tokens[begin:told], tokens[begin:]))
        return now[len(before) :]

    for token in ids:
        tokens.append(token)
        piece = untold()
        if piece and not piece.endswith(REPLACEMENT):
            yield piece
            begin, told, piece = told, len(tokens), ""
    if piece:
        yield piece
