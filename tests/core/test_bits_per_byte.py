"""Bits per byte are those of the source text: Hugging Face's own tokenization and loss of one text give the same."""

import math

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lmcore import columns as col
from lmcore.config import DataConfig, ModelConfig, RunSpec, TrainConfig
from lmcore.corpus.encode import token_bytes
from lmcore.corpus.prepare import prepare_tokens
from lmcore.export.llama import llama_files, write_folder
from lmcore.trainer import Trainer

CONTEXT = 16
SENTENCES = [
    f"Señor Müller NAÏVELY bought {n} naïve cafés, and {'🙂' * (n % 3)} paid {n * n} Kč.\r\n" for n in range(300)
]


def word_piece(path):
    """Lower case, no accents, `[UNK]`: the text cannot be known from its ids."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator([text.replace("🙂", "") for text in SENTENCES[:200]], trainer)
    tokenizer.save(str(path))


def byte_level(path):
    """As GPT-2's."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        SENTENCES[:200], vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.save(str(path))


@pytest.fixture(params=[(word_piece, "[SEP]"), (byte_level, "<|endoftext|>")], ids=["wordpiece", "byte-level"])
def prepared(request, tmp_path):
    make, end = request.param
    make(tmp_path / "tokenizer.json")
    texts = {"train": "".join(SENTENCES[:200]), "val": "".join(SENTENCES[200:])}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text, newline="")
    paths = {"source": tmp_path / "train.txt", "val_source": tmp_path / "val.txt"}
    config = DataConfig(**{name: str(path) for name, path in paths.items()}, tokenizer=str(tmp_path / "tokenizer.json"))
    return prepare_tokens(config, tmp_path / "cache"), texts["val"], end


def test_bits_per_byte_of_a_trained_model_are_those_of_hugging_face(prepared, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokens, text, end = prepared
    model = ModelConfig(vocab_size=tokens.vocab_size, d_model=32, num_layers=1, num_heads=2, d_ff=64)
    model = model.model_copy(update={"context_length": CONTEXT})
    train = TrainConfig(steps=20, batch_size=4, eval_every=20, eval_windows=10**6, device="cpu", dtype="float32")
    trainer = Trainer([RunSpec(model=model, train=train)], tokens)
    row = list(trainer)[-1]
    ours = row[col.VAL_LOSS] / math.log(2) / tokens.bytes_per_token

    # From here on without lmsweep: the text's ids, the loss of each window, and bits over bytes of the file.
    write_folder(tmp_path / "out", llama_files(model, trainer.model.slot_state_dict(0), None))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.convert_tokens_to_ids(end)]
    count = (len(ids) - 1) // CONTEXT
    stride = (len(ids) - 1) // count
    nats = 0.0
    with torch.no_grad():
        for start in range(0, count * stride, stride):
            window = torch.tensor([ids[start : start + CONTEXT + 1]])
            logits = theirs(window[:, :-1]).logits[0]
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    bits_of_the_text = nats / (count * CONTEXT) * len(ids) / math.log(2)
    assert ours == pytest.approx(bits_of_the_text / len(text.encode("utf-8")), rel=1e-5)


def test_bytes_of_ids_are_known_only_for_a_tokenizer_that_keeps_the_text(prepared, tmp_path):
    tokens, text, _ = prepared
    np.save(tmp_path / "ids.npy", tokens.val)
    config = DataConfig(source=str(tmp_path / "ids.npy"), tokenizer=str(tmp_path / "tokenizer.json"), val_fraction=0.5)
    from_ids = prepare_tokens(config)
    lossy = token_bytes(Tokenizer.from_str(tokens.tokenizer_json)) is None
    if lossy:
        assert from_ids.bytes_per_token is None
    else:
        lengths = token_bytes(Tokenizer.from_str(tokens.tokenizer_json))
        assert lengths[tokens.val].sum() == len(text.encode("utf-8"))
        assert from_ids.bytes_per_token == lengths[np.asarray(from_ids.val)].sum() / len(from_ids.val)
