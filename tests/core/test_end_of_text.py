"""Documents are separated, whatever the tokenizer calls the token that ends one."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken

from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.tokenizer import END_OF_TEXT_NAMES, train_tokenizer
from lmcore.errors import InputError

DOCUMENTS = [f"document number {number}, of a few words" for number in range(40)]
NONE = "data.end_of_text: the tokenizer has no token that ends a document"


@pytest.fixture
def prepared(tmp_path):
    """Prepares DOCUMENTS with a tokenizer that has these special tokens; returns it, the tokens and what was said."""

    def prepare(*special, marked=None, documents=DOCUMENTS, **options):
        bpe = train_tokenizer(DOCUMENTS, 300)
        saved = json.loads(bpe.to_str())
        end = saved["added_tokens"].pop()["content"]  # its own end of text becomes a plain token
        saved["model"]["vocab"] = {("plain" if name == end else name): n for name, n in saved["model"]["vocab"].items()}
        bpe = bpe.from_str(json.dumps(saved))
        bpe.add_special_tokens([AddedToken(name) for name in special])
        bpe.save(str(tmp_path / "tokenizer.json"))
        if marked is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(marked))
        if isinstance(documents, str):
            source = tmp_path / "text.txt"
            source.write_text(documents)
        else:
            source = tmp_path / "text.jsonl"
            source.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
        said = []
        config = DataConfig(source=str(source), tokenizer=str(tmp_path / "tokenizer.json"), **options)
        return bpe, prepare_tokens(config, tmp_path / "cache", said.append), said

    return prepare


def counted(tokens, token):
    return int((np.asarray(tokens.train) == token).sum() + (np.asarray(tokens.val) == token).sum())


@pytest.mark.parametrize("name", END_OF_TEXT_NAMES)
def test_a_token_with_a_usual_name_ends_each_document(prepared, name):
    bpe, tokens, said = prepared(name)
    assert tokens.end_of_text == bpe.token_to_id(name)
    assert counted(tokens, tokens.end_of_text) == len(DOCUMENTS)
    assert tokens.train[-1] == tokens.val[-1] == tokens.end_of_text
    assert not any(line.startswith(NONE) for line in said)


@pytest.mark.parametrize(
    "marked", [{"eos_token": "<END>"}, {"eos_token": {"content": "<END>"}}, {"bos_token": "<END>"}]
)
def test_what_the_config_of_the_tokenizer_marks_comes_first(prepared, marked):
    bpe, tokens, _ = prepared("</s>", "<END>", marked=marked)
    assert counted(tokens, bpe.token_to_id("<END>")) == len(DOCUMENTS)
    assert counted(tokens, bpe.token_to_id("</s>")) == 0


def test_the_users_choice_comes_before_all_others_and_separates_documents_in_plain_files(prepared):
    options = {"marked": {"eos_token": "</s>"}, "end_of_text": "<SEP>"}
    bpe, tokens, _ = prepared("</s>", "<SEP>", documents="<SEP>".join(DOCUMENTS), **options)
    assert tokens.readings[0].documents == len(DOCUMENTS)
    assert counted(tokens, bpe.token_to_id("<SEP>")) == len(DOCUMENTS)
    assert counted(tokens, bpe.token_to_id("</s>")) == 0


def test_a_choice_that_is_no_token_is_refused_with_those_that_there_are(prepared):
    with pytest.raises(InputError, match=r"^data.end_of_text: .* '<X>' is none; its special tokens are </s>, <pad>$"):
        prepared("</s>", "<pad>", end_of_text="<X>")


def test_a_line_says_so_if_there_is_none(prepared):
    bpe, tokens, said = prepared("<pad>")
    assert tokens.end_of_text is None
    assert counted(tokens, bpe.token_to_id("<pad>")) == 0
    assert sum(line.startswith(NONE) for line in said) == 1


def test_in_plain_files_it_separates_documents(prepared):
    bpe, tokens, said = prepared("</s>", documents="</s>".join(DOCUMENTS), marked={"eos_token": "</s>"})
    assert said[0].endswith("; </s> in the text separates documents")
    assert tokens.readings[0].documents == len(DOCUMENTS)
    assert counted(tokens, bpe.token_to_id("</s>")) == len(DOCUMENTS)
