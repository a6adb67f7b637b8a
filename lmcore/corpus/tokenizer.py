"""Tokenizers: train a byte-level BPE on text, or load a Hugging Face tokenizer.json; which token ends a document.

Training is deterministic: the same text gives the same tokenizer.json. Loads without torch. Encoding text is in
`lmcore.corpus.encode`, storing token ids in `lmcore.corpus.tokens`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lmcore.config import DEFAULT_VOCAB_SIZE
from lmcore.corpus.text import END_OF_TEXT
from lmcore.errors import InputError

MIN_VOCAB_SIZE = 256 + 1  # every byte, and END_OF_TEXT
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|eos|>", "<|bos|>", "<s>", "[SEP]")
"""Names that end a document, in order of preference. A token that begins documents separates them as well."""

DISTINCT_CHARS = 1 << 18  # of text that are looked at for whether its words repeat
DISTINCT_SHARE = 0.5
"""Share of the characters that are in distinct words above which words hardly repeat, as in DNA or base64. The trainer
keeps every distinct word, at 40 to 100 bytes a character."""
SAMPLED_ONE_IN = 16  # pieces of such text that a tokenizer is trained on
LONGEST_WORD = 4096
"""Characters. Longer words are cut for training, whose time grows with the square of a word's length: of 1 MB of DNA in
words of 2^18 characters it takes 100 s, in words of 2^12 it takes 2 s."""
_KINDS = (r"[^\W\d_]", r"\d", r"[^\w\s]")  # letters, digits and the rest, of which the pre-tokenizer makes words
_WORD = re.compile("|".join(f"{kind}+" for kind in _KINDS))
_LONG_WORD = re.compile("|".join(f"{kind}{{{LONGEST_WORD}}}(?={kind})" for kind in _KINDS))


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE, note: Callable[[str], None] = lambda line: None
) -> Tokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens; fewer if the text has no more repeated pairs.

    `<|endoftext|>` has id 0. The 256 bytes follow, so any UTF-8 text can be encoded without loss. If words hardly
    repeat in the first texts, one of SAMPLED_ONE_IN others is used, and `note` is called with a line that says so.
    Words are cut after LONGEST_WORD characters.

    Raises InputError if `vocab_size` is below 257.

    >>> tokenizer = train_tokenizer(["to be or not to be"], vocab_size=300)
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise InputError(
            f"data.vocab_size: a byte-level BPE needs at least {MIN_VOCAB_SIZE} (256 bytes and {END_OF_TEXT}), "
            f"but got {vocab_size}; the default is {DEFAULT_VOCAB_SIZE}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cut = (part for text in _sampled(texts, note) for part in _long_words_cut(text))
    tokenizer.train_from_iterator(cut, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json. Its truncation and padding are switched off, because they would lose or add tokens.

    Raises InputError if the file cannot be read or is not a tokenizer.json.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"data.tokenizer: must be a readable tokenizer.json, but {str(path)!r} is not ({error.strerror}); "
            "check the path"
        ) from error
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(
            f"data.tokenizer: must be a Hugging Face tokenizer.json, but {str(path)!r} does not parse "
            f"({' '.join(str(error).split())}); save it again with Tokenizer.save"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The largest id + 1. This exceeds the number of tokens if ids have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def end_of_text_token(
    tokenizer: Tokenizer, name: str | None = None, path: Path | None = None
) -> tuple[str, int] | None:
    """Name and id of the token that ends a document, or None if the tokenizer has no such token.

    That is `name` (data.end_of_text) if it is given; else what the files beside the tokenizer.json at `path` call
    `eos_token`, or `bos_token`; else the first of END_OF_TEXT_NAMES that it has.

    Raises InputError if `name` is not a token.
    """
    if name is not None:
        if (token := tokenizer.token_to_id(name)) is None:
            special = [one.content for one in tokenizer.get_added_tokens_decoder().values() if one.special]
            raise InputError(
                f"data.end_of_text: must be a token of the tokenizer, but {name!r} is none; "
                f"its special tokens are {', '.join(special) or 'none'}"
            )
        return name, token
    names = [*(_marked(path) if path is not None else ()), *END_OF_TEXT_NAMES]
    ids = ((name, tokenizer.token_to_id(name)) for name in names)
    return next(((name, token) for name, token in ids if token is not None), None)


def _marked(path: Path) -> list[str]:
    """The names of `eos_token` and `bos_token` in the configuration beside a tokenizer.json."""
    found = []
    for key in ("eos_token", "bos_token"):
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            with suppress(OSError, ValueError, AttributeError):
                value = json.loads((path.parent / file).read_bytes()).get(key)
                value = value.get("content") if isinstance(value, dict) else value
                found += [value] if isinstance(value, str) else []
    return found


def _sampled(texts: Iterable[str], note: Callable[[str], None]) -> Iterator[str]:
    """The text to train on: all of it, or a sample if its words hardly repeat."""
    seen: list[str] = []
    chars = 0
    rest = iter(texts)
    for text in rest:
        seen.append(text)
        chars += len(text)
        if chars >= DISTINCT_CHARS:
            break
    yield from seen
    words = {word for text in seen for word in _WORD.findall(text)}
    distinct = sum(map(len, words))
    del seen, words
    if distinct <= DISTINCT_SHARE * chars:
        yield from rest
        return
    number = 0
    for number, text in enumerate(rest, 1):
        if number % SAMPLED_ONE_IN == 0:
            yield text
    if number:
        note(f"words hardly repeat, so the tokenizer was trained on one in {SAMPLED_ONE_IN} parts of the text")


def _long_words_cut(text: str) -> Iterator[str]:
    """The text in parts, of which each ends where a word has LONGEST_WORD characters."""
    begin = 0
    for word in _LONG_WORD.finditer(text):
        yield text[begin : word.end()]
        begin = word.end()
    yield text[begin:]
