"""Checkpoints: training continues bit for bit, damage is always noticed, and nothing that is read is executed."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import resource

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch.nn import functional as F

import lmcore.optim
from lmcore import checkpoint
from lmcore.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)

OPTIMIZERS = {
    "lmcore AdamW": lambda parameters: lmcore.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.95)),
    "torch AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.95)),
    "torch AdamW with tensor lr": lambda parameters: torch.optim.AdamW(parameters, lr=torch.tensor(1e-2)),
    "torch SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-1, momentum=0.9),
    "torch LBFGS, whose state holds lists": lambda parameters: torch.optim.LBFGS(parameters, max_iter=3),
}


class TiedModel(torch.nn.Module):
    """A bigram model with tied weights and an integer buffer."""

    def __init__(self, width=8, dtype=torch.float32, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(11, width, dtype=dtype)
        self.norm = torch.nn.LayerNorm(width, dtype=dtype)
        self.head = torch.nn.Linear(width, 11, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens):
        return self.head(self.norm(self.embedding(tokens)))


def train(model, optimizer, steps):
    """Make the updates of `steps`; batch s depends on s alone."""
    losses = []
    for step in steps:
        tokens = torch.randint(0, 11, (2, 16), generator=torch.Generator().manual_seed(step))

        def closure(tokens=tokens):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(tokens[0]), tokens[1])
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
        model.updates += 1
    return losses


def identical(a, b):
    """Same types throughout, and bitwise the same tensors."""
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and raw_bytes(a) == raw_bytes(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and a == b


def raw_bytes(tensor):
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


def written(tensors=None, meta=None):
    """The bytes of a small checkpoint."""
    file = io.BytesIO()
    if tensors is None:
        generator = torch.Generator().manual_seed(0)
        tensors = {"w": torch.randn(16, 9, generator=generator), "step": torch.arange(5)}
    write_checkpoint(file, tensors, {"note": "kept", "losses": [1.5, 2.5]} if meta is None else meta)
    return file.getvalue()


def header_bytes(data):
    return 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize("form", ["path", "file object"])
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_continues_bit_for_bit(make_optimizer, form, tmp_path):
    place = tmp_path / "step.safetensors" if form == "path" else io.BytesIO()
    model = TiedModel()
    optimizer = make_optimizer(model.parameters())
    train(model, optimizer, range(5))
    save_checkpoint(model, optimizer, 5, place)
    saved_state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    expected = train(model, optimizer, range(5, 12))

    resumed = TiedModel(seed=1)
    resumed_optimizer = make_optimizer(resumed.parameters())
    if form == "file object":
        place.seek(0)
    assert load_checkpoint(place, resumed, resumed_optimizer) == 5
    assert identical(resumed_optimizer.state_dict(), saved_state)
    assert train(resumed, resumed_optimizer, range(5, 12)) == expected
    assert identical(dict(resumed.state_dict()), dict(model.state_dict()))
    assert identical(resumed_optimizer.state_dict(), optimizer.state_dict())


def test_a_model_is_saved_and_loaded_without_an_optimizer(tmp_path):
    model, loaded = TiedModel(seed=0), TiedModel(seed=1)
    save_checkpoint(model, None, 3, tmp_path / "model.safetensors")
    assert load_checkpoint(tmp_path / "model.safetensors", loaded, None) == 3
    assert identical(dict(loaded.state_dict()), dict(model.state_dict()))


def test_an_optimizer_in_the_file_may_be_ignored(tmp_path):
    model, loaded = TiedModel(seed=0), TiedModel(seed=1)
    save_checkpoint(model, OPTIMIZERS["torch AdamW"](model.parameters()), 3, tmp_path / "both.safetensors")
    assert load_checkpoint(tmp_path / "both.safetensors", loaded, None) == 3
    assert identical(dict(loaded.state_dict()), dict(model.state_dict()))


def test_tied_weights_stay_tied_and_are_readable_under_both_names(tmp_path):
    path, model = tmp_path / "tied.safetensors", TiedModel(seed=1)
    save_checkpoint(TiedModel(seed=0), None, 0, path)
    tensors = safetensors.torch.load_file(path)
    assert torch.equal(tensors["model.head.weight"], tensors["model.embedding.weight"])
    load_checkpoint(path, model, None)
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loaded_state_has_the_dtype_of_the_model(dtype, tmp_path):
    model, other = TiedModel(), TiedModel(dtype=dtype)
    optimizer = OPTIMIZERS["torch AdamW"](model.parameters())
    other_optimizer = OPTIMIZERS["torch AdamW"](other.parameters())
    train(model, optimizer, range(2))
    save_checkpoint(model, optimizer, 2, tmp_path / "float32.safetensors")
    load_checkpoint(tmp_path / "float32.safetensors", other, other_optimizer)
    assert torch.equal(other.head.weight, model.head.weight.to(dtype))
    moment = optimizer.state[model.head.weight]["exp_avg"]
    assert torch.equal(other_optimizer.state[other.head.weight]["exp_avg"], moment.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_bit_pattern_survives(dtype):
    bits = np.random.default_rng(0).integers(0, 256, size=512, dtype=np.uint8)  # NaN payloads and -0.0 among them
    tensor = torch.from_numpy(bits).view(dtype)
    tensors, _ = read_checkpoint(io.BytesIO(written({"w": tensor})))
    assert identical(tensors["w"], tensor)


def test_any_layout_survives():
    base = torch.arange(24).reshape(4, 6)
    tensors = {
        "base": base,
        "alias": base,
        "row": base[1],
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(True),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    read, _ = read_checkpoint(io.BytesIO(written(tensors)))
    assert identical(read, tensors)


def test_metadata_survives():
    meta = {
        "text": 'quotes " and \\ and "sha256":"' + "0" * 64 + " and \u00fc\U0001f600\n",
        "floats": [0.1 + 0.2, 5e-324, 1.7976931348623157e308, float("inf"), -0.0],
        "large": 2**80,
        "nested": {"none": None, "flag": True, "empty": [{}, []]},
    }
    _, read = read_checkpoint(io.BytesIO(written({}, meta)))
    assert identical(read, meta)


def test_a_loss_that_is_not_a_number_can_be_kept():
    _, meta = read_checkpoint(io.BytesIO(written({}, {"loss": float("nan")})))
    assert np.isnan(meta["loss"])


def test_plain_safetensors_reads_the_file(tmp_path):
    path, tensors = tmp_path / "plain.safetensors", {"w": torch.arange(6.0).reshape(2, 3)}
    write_checkpoint(path, tensors, {"step": 3})
    assert identical(safetensors.torch.load_file(path), tensors)
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["meta"]) == {"step": 3}


def test_the_digest_is_the_sha256_of_the_file_with_zeros_in_its_place():
    data = written()
    digest = json.loads(data[8 : header_bytes(data)])["__metadata__"]["sha256"]
    assert hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_equal_content_gives_equal_bytes():
    assert len({written() for _ in range(8)}) == 1


def test_every_flipped_bit_is_detected():
    data = bytearray(written())
    bits_in_header = 8 * header_bytes(data)
    in_tensors = np.random.default_rng(0).integers(bits_in_header, 8 * len(data), size=200)
    for position in [*range(bits_in_header), *in_tensors.tolist(), 8 * len(data) - 1]:
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(CheckpointError):
            read_checkpoint(io.BytesIO(data))
        data[position // 8] ^= 1 << position % 8
    read_checkpoint(io.BytesIO(data))


def test_every_truncation_and_any_appended_byte_is_detected():
    data = written()
    for damaged in [*(data[:length] for length in range(len(data))), data + b"\0", data + data]:
        with pytest.raises(CheckpointError):
            read_checkpoint(io.BytesIO(damaged))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + b"?"])
def test_the_error_names_the_file_in_one_line(damage, tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(written()))
    with pytest.raises(CheckpointError, match=r"^a checkpoint must .*damaged\.safetensors.*;.*$") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_is_refused_and_not_executed(dump, tmp_path):
    path, crater = tmp_path / "weights.pt", tmp_path / "crater"
    with path.open("wb") as file:
        dump(Bomb(str(crater)), file)
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        read_checkpoint(path)
    assert not crater.exists()


def test_safetensors_without_a_digest_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"w": torch.ones(3)}, path, metadata={"meta": "{}"})
    with pytest.raises(CheckpointError, match=r"SHA-256, but .*foreign\.safetensors does not"):
        read_checkpoint(path)


@pytest.mark.parametrize("broken", [b'"F32"', b"[0,12]", b'"meta"', b'{\\"step\\"', b'{"dtype"'])
def test_a_malformed_file_with_a_valid_digest_is_refused(broken):
    data = written({"w": torch.ones(3)}, {"step": 3})
    assert data.count(broken) == 1
    digest = json.loads(data[8 : header_bytes(data)])["__metadata__"]["sha256"].encode()
    zeroed = data.replace(digest, b"0" * 64).replace(broken, b"?" * len(broken))
    forged = zeroed.replace(b"0" * 64, hashlib.sha256(zeroed).hexdigest().encode())
    with pytest.raises(CheckpointError, match="valid safetensors and JSON"):
        read_checkpoint(io.BytesIO(forged))


def test_a_header_that_claims_to_be_huge_is_not_read():
    file = io.BytesIO((checkpoint.MAX_HEADER_BYTES + 1).to_bytes(8, "little") + bytes(100))
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert file.tell() == 8


def test_a_header_that_nobody_would_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(ValueError, match="must fit in 1000 bytes, but they take"):
        write_checkpoint(tmp_path / "large.safetensors", {}, {"text": "a" * 1000})
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def largest_file(size):
    """The operating system refuses to write beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(size, tmp_path):
    path = tmp_path / "step.safetensors"
    write_checkpoint(path, {"w": torch.ones(3)}, {"step": 1})
    before = path.read_bytes()
    with largest_file(size), pytest.raises(OSError, match="File too large"):
        write_checkpoint(path, {"w": torch.ones(100_000)}, {"step": 2})
    assert os.listdir(tmp_path) == ["step.safetensors"]
    assert path.read_bytes() == before
    write_checkpoint(path, {"w": torch.ones(100_000)}, {"step": 2})
    assert os.listdir(tmp_path) == ["step.safetensors"]
    assert read_checkpoint(path)[1] == {"step": 2}


def test_a_replacement_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_checkpoint(tmp_path / "folder", {}, {})
    assert os.listdir(tmp_path) == ["folder"]


def test_metadata_that_is_not_json_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "step.safetensors"
    write_checkpoint(path, {}, {"step": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_checkpoint(path, {}, {"step": object()})
    assert os.listdir(tmp_path) == ["step.safetensors"]
    assert read_checkpoint(path)[1] == {"step": 1}


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    write_checkpoint(tmp_path / "step.safetensors", {}, {})
    (tmp_path / "plain").touch()
    assert (tmp_path / "step.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "newest").symlink_to("step.safetensors")
    write_checkpoint(tmp_path / "newest", {}, {"step": 1})
    assert (tmp_path / "newest").is_symlink()
    assert read_checkpoint(tmp_path / "step.safetensors")[1] == {"step": 1}


def test_a_state_dict_with_anything_else_is_refused_by_name(tmp_path):
    model = TiedModel()
    optimizer = OPTIMIZERS["torch AdamW"](model.parameters())
    optimizer.param_groups[0]["rule"] = len
    with pytest.raises(TypeError, match=r"optimizer\.param_groups\.0\.rule is a builtin_function_or_method"):
        save_checkpoint(model, optimizer, 1, tmp_path / "step.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("width", "groups", "message"),
    [
        (4, 1, r"for embedding\.weight .* has shape \(11, 8\) and the model shape \(11, 4\)"),
        (8, 2, "different number of parameter groups"),
    ],
)
def test_a_checkpoint_that_does_not_fit_touches_nothing(width, groups, message, tmp_path):
    path, saved = tmp_path / "step.safetensors", TiedModel()
    save_checkpoint(saved, OPTIMIZERS["torch AdamW"](saved.parameters()), 1, path)
    model = TiedModel(width=width, seed=1)
    first, *others = model.parameters()
    split = [{"params": [first]}, {"params": others}] if groups == 2 else [{"params": [first, *others]}]
    optimizer = OPTIMIZERS["torch AdamW"](split)
    train(model, optimizer, range(2))
    before = pickle.loads(pickle.dumps((dict(model.state_dict()), optimizer.state_dict())))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, model, optimizer)
    assert identical((dict(model.state_dict()), optimizer.state_dict()), before)


def test_an_optimizer_without_saved_state_is_refused(tmp_path):
    path, model = tmp_path / "step.safetensors", TiedModel()
    save_checkpoint(model, None, 1, path)
    with pytest.raises(CheckpointError, match="saved without one; pass optimizer=None"):
        load_checkpoint(path, model, OPTIMIZERS["torch AdamW"](model.parameters()))


def test_a_checkpoint_of_another_writer_is_refused(tmp_path):
    write_checkpoint(tmp_path / "other.safetensors", {}, {"step": 1})
    with pytest.raises(CheckpointError, match=r"holds \['step'\]; use read_checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors", TiedModel(), None)
