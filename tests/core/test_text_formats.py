"""Records, compressed files and other encodings give the same documents as plain text; what is skipped is named."""

import codecs
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcore.config import DataConfig
from lmcore.corpus.prepare import prepare_tokens
from lmcore.corpus.text import scan_text
from lmcore.corpus.text_formats import CHUNK_BYTES, is_compressed
from lmcore.errors import InputError
from tests.corpora import read_documents

DOCUMENTS = ["Once upon a time\nthere was a dog.\n", "日本語 and Ünïcode 🙂", 'a "quoted"\\ line\t', "the end"]


def json_lines(field="text"):
    return "".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(DOCUMENTS)).encode()


def table(field="text"):
    return pa.table({"id": list(range(len(DOCUMENTS))), field: DOCUMENTS})


def saved_data_set(folder, rows, indices=None):
    """What `datasets.Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-00002.arrow" for n in range(2)]
    for name, part in zip(names, (rows.slice(0, 3), rows.slice(3)), strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_indices_files": indices}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("field", ["text", "content"])
def test_a_record_is_a_document(tmp_path, name, field):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(table(field), path, row_group_size=2)
    else:
        path.write_bytes(gzip.compress(json_lines(field)) if name.endswith(".gz") else json_lines(field))
    assert read_documents(str(path), text_field=field) == DOCUMENTS
    tokens = prepare_tokens(DataConfig(source=str(path), text_field=field), tmp_path / "cache")
    size = sum(len(document.encode()) for document in DOCUMENTS)
    assert tokens.readings[0].line == f"data.source: 1 file, 4 documents, {size} bytes read"


def test_a_data_set_saved_to_disk_is_read_in_its_order(tmp_path):
    assert read_documents(str(saved_data_set(tmp_path / "data", table()))) == DOCUMENTS
    with pytest.raises(InputError, match=r"^data\.source: a saved data set must hold its rows .*flatten_indices"):
        read_documents(str(saved_data_set(tmp_path / "shuffled", table(), [{"filename": "indices.arrow"}])))


def test_a_data_set_of_several_splits_says_which_to_give(tmp_path):
    for split in ("train", "validation"):
        saved_data_set(tmp_path / split, table())
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(InputError, match=r"give data\.source: \S+/train and data\.val_source: \S+/validation$"):
        read_documents(str(tmp_path))


def test_a_saved_data_set_is_what_the_datasets_library_writes(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(str(tmp_path / "data"))
    assert read_documents(str(tmp_path / "data")) == DOCUMENTS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_text_with_a_byte_order_mark_and_gzip_are_read(tmp_path, encoding, suffix):
    text = "\n".join(DOCUMENTS) * 20_000  # characters lie across the stretches that are read
    marks = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
    content = marks.get(encoding, b"") + text.encode(encoding)
    assert len(content) > 1.5 * CHUNK_BYTES
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix == ".txt.gz" else content)
    assert read_documents(str(path)) == [text]
    assert scan_text(str(path)).reading.bytes == len(text.encode())


def test_skipped_files_are_counted_and_the_first_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "d.txt").write_text(" \n")
    (tmp_path / "e.dat").write_bytes(b"a\0b")
    lines = []
    tokens = prepare_tokens(DataConfig(source=str(tmp_path), val_fraction=0.5), tmp_path.parent / "cache", lines.append)
    first = f"(first: {tmp_path}/b.txt, not UTF-8 at byte 0)"
    assert lines == [f"data.source: 2 files, 1 document, 4 bytes read; 3 skipped {first}"]
    assert [one.why for one in tokens.readings[0].skipped_files] == [
        "not UTF-8 at byte 0",
        "not UTF-8 at byte 0",
        "a zero byte at byte 1",
    ]


def test_a_file_that_turns_out_not_to_be_text_is_skipped_whole(tmp_path):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"x" * 3 * CHUNK_BYTES + b"\xff")
    assert read_documents(str(tmp_path)) == ["good"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"id": 1}\n',
            r"records must have the field 'text', but line 1 of .* has id; set data\.text_field",
        ),
        ("a.jsonl", b'{"text": 5}\n', r"the field 'text' of a record must be text, but in line 1 of .* it is int"),
        ("a.jsonl", b'{"text": "a"}\nnope\n', r"not: line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"not: line 1 is list, not an object with fields"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"half of a character"),
        ("a.txt.gz", gzip.compress(b"text" * 1000, mtime=0)[:-20], r"a damaged gzip file"),
        ("a.parquet", b"PAR1", r"a damaged Parquet file"),
        ("a.txt", b"caf\xe9", r"not UTF-8 at byte 3; .*iconv"),
    ],
)
def test_a_named_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^data\.source: [^\n]*{message}[^\n]*$"):
        read_documents(str(path))


def test_a_parquet_file_without_the_field_names_its_fields(tmp_path):
    pq.write_table(table("content"), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"must have the field 'text', but .* has id, content; set data\.text_field"):
        read_documents(str(tmp_path / "a.parquet"))


def test_records_without_text_are_no_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n\n{"text": "one"}\n{"text": "  "}\n')
    assert read_documents(str(tmp_path / "a.jsonl")) == ["one"]


def test_a_pattern_reads_the_files_that_match(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    assert read_documents(str(tmp_path / "*.jsonl")) == ["a.jsonl", "b.jsonl"]
    with pytest.raises(InputError, match=r"^data\.source: must match files, but .* matches none; [^\n]+$"):
        read_documents(str(tmp_path / "*.parquet"))


def test_a_data_set_of_one_split_is_not_to_be_validated_on_it(tmp_path):
    saved_data_set(tmp_path / "train", table())
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match=r"has train; give data\.source: \S+/train$"):
        read_documents(str(tmp_path))


def damaged_parquet(path):
    pq.write_table(pa.table({"text": ["some text"] * 2000}), path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)  # the head of its first page
    path.write_bytes(content)


def parquet_without_utf8(path):
    column = pa.array([b"\xff\xfe"], pa.binary()).view(pa.utf8())
    pq.write_table(pa.table({"text": column}), path)


@pytest.mark.parametrize("write", [damaged_parquet, parquet_without_utf8])
def test_a_damaged_parquet_file_is_skipped_and_named(tmp_path, write):
    (tmp_path / "a.txt").write_text("good")
    write(tmp_path / "b.parquet")
    reading = scan_text(str(tmp_path)).reading
    assert (reading.documents, reading.skipped) == (1, 1)
    assert reading.skipped_files[0].why.startswith("a damaged Parquet file")


def test_files_are_looked_at_once_however_many_there_are(tmp_path, monkeypatch):
    for number in range(100):
        (tmp_path / f"{number}.txt").write_text("some words")
    asked = []
    monkeypatch.setattr("lmcore.corpus.text.is_compressed", lambda path: asked.append(path) or is_compressed(path))
    assert scan_text(str(tmp_path)).reading.files == 100
    assert len(asked) == 100


def test_progress_is_in_bytes_of_text_and_its_total_unknown_where_files_are_compressed(tmp_path):
    text = "我你他是" * 1000
    (tmp_path / "a.txt").write_text(text)
    told = []
    scan_text(str(tmp_path / "a.txt"), report=lambda *one: told.append(one[1:]))
    assert told[-1] == (12_000, 12_000)
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write(text)
    told.clear()
    scan_text(str(tmp_path), report=lambda *one: told.append(one[1:]))
    assert told[-1] == (24_000, 0)
    told.clear()
    prepare_tokens(DataConfig(source=str(tmp_path)), tmp_path / "cache", report=lambda *one: told.append(one))
    trained = [one for one in told if one[0] == "training a tokenizer"]
    assert trained[-1][2] == 24_000
    assert 0.9 * 24_000 < trained[-1][1] < 24_000  # the rest is held out
