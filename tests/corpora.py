"""Documents as lists in memory: what tests compare the streams of `lmcore.corpus` with."""

import json
import tempfile
from pathlib import Path

from lmcore.corpus.encode import encode, fits_of
from lmcore.corpus.pieces import pieces
from lmcore.corpus.text import scan_text, split_pieces
from lmcore.corpus.tokenizer import end_of_text_token


def read_documents(source, field="data.source", **options):
    """The documents of a source."""
    return joined(scan_text(source, field, **options).fragments())


def split_documents(documents, val_fraction, folder):
    """Training and validation documents, by way of a file of records in `folder`."""
    path = Path(folder, "documents.jsonl")
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    found = {"train": [], "val": []}
    for split, piece in split_pieces(scan_text(str(path)), val_fraction, lambda left, right: True):
        found[split].append((piece.text, piece.ends_document))
    return joined(found["train"]), joined(found["val"])


def encode_documents(tokenizer, documents):
    """The ids of the documents, each followed by the tokenizer's end of text."""
    end = end_of_text_token(tokenizer)
    found = (("train", piece) for piece in pieces(((one, True) for one in documents), fits_of(tokenizer)))
    return encode(tokenizer, found, None if end is None else end[1], Path(tempfile.gettempdir())).ids("train")


def joined(fragments):
    found, text = [], ""
    for part, ends in fragments:
        text += part
        if ends:
            found.append(text)
            text = ""
    return found
