"""Checkpoints: safetensors files of tensors and JSON, checked by a digest and replaced atomically.

Any reader of safetensors opens them. Their header begins with a SHA-256 of the whole file (the digest itself counted as
zeros), so no flipped bit loads unnoticed. There is no pickle: nothing that is read is executed. A path holds the old
checkpoint or the new one, never a part of one. Random states and the position in the data are not stored: batch s
depends on the data seed and s only. Which checkpoints to keep, and where, is up to the caller.

    save_checkpoint(model, optimizer, iteration=100, out="step-100.safetensors")
    iteration = load_checkpoint("step-100.safetensors", model, optimizer)
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, BinaryIO, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lmcore.durable import write_file

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Place: TypeAlias = "str | os.PathLike[str] | BinaryIO"

MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
# The digest comes first in the header, so its position is the same in every file.
_OPENING = b'{"__metadata__":{"sha256":"'
_DIGEST = slice(8 + len(_OPENING), 8 + len(_OPENING) + 64)
_ZEROS = b"0" * 64


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or does not fit; the message is one line that names the file."""


def write_checkpoint(out: Place, tensors: Mapping[str, Tensor], meta: Mapping[str, JSON]) -> None:
    """Write tensors and JSON as one safetensors file with a digest; equal content gives equal bytes.

    `out` is a path, replaced atomically and durably, or a binary file object, written from its position on. Only
    `kill -9` or a power cut leaves a `.NAME.*.tmp` beside the path, which nothing reads. Tensors that share memory are
    each written. `meta` may hold infinities and NaN, and a tuple in it comes back as a list.

    Raises TypeError or ValueError, before anything is written, if `meta` is not JSON or too long; and OSError if the
    file could not be written: a path still holds its old content then.
    """
    parts = _serialize(tensors, meta)
    if isinstance(out, str | os.PathLike):
        write_file(out, parts)
    else:
        out.writelines(parts)


def read_checkpoint(src: Place) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read `(tensors, meta)`, on the CPU, from a path or from the rest of a binary file object.

    Raises CheckpointError if the file is not a checkpoint, or not exactly the bytes that were written.
    """
    label = _label(src)
    with open(src, "rb") if isinstance(src, str | os.PathLike) else nullcontext(src) as file:
        prefix = file.read(8)
        size = int.from_bytes(prefix, "little")
        header = file.read(size) if size <= MAX_HEADER_BYTES else b""
        if not header.startswith(_OPENING):
            raise CheckpointError(
                f"a checkpoint must begin with a safetensors header and its SHA-256, but {label} does not; "
                "give a file that lmcore.checkpoint wrote"
            )
        data = prefix + header + file.read()
    if data[_DIGEST] != _digest([data]):
        raise CheckpointError(
            f"a checkpoint must match its SHA-256, but {label} does not: it is damaged or cut short; "
            "delete it and use an older one"
        )
    # The digest detects damage, not malice: a forged file may still be malformed.
    try:
        meta = dict(json.loads(json.loads(header)["__metadata__"]["meta"]))
        return safetensors.torch.load(data), meta
    except (ValueError, LookupError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"a checkpoint must hold valid safetensors and JSON, but {label} does not: {error}; "
            "give a file that lmcore.checkpoint wrote"
        ) from error


def save_checkpoint(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, iteration: int, out: Place
) -> None:
    """Save what `load_checkpoint` needs to continue training bit for bit, after `iteration` updates.

    Tensors are named `model.<name>` and `optimizer.state.<index>.<name>`; everything else is JSON. Weights that a
    module has under two names are written under both. `out` and errors are as for `write_checkpoint`.

    Raises TypeError if a state dict holds anything but tensors, numbers, strings, lists, tuples and dicts; nothing has
    been written then.
    """
    optimizer_state = None if optimizer is None else optimizer.state_dict()
    state = {"iteration": iteration, "model": model.state_dict(), "optimizer": optimizer_state}
    tensors: dict[str, Tensor] = {}
    meta = {part: _split(value, part, tensors) for part, value in state.items()}
    write_checkpoint(out, tensors, meta)


def load_checkpoint(src: Place, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> int:
    """Load what `save_checkpoint` saved into `model` and `optimizer`; return the iteration.

    Weights take the dtype and device of the model's, and the optimizer's state those of the weights. With
    `optimizer=None`, an optimizer's state in the file is ignored.

    Raises CheckpointError as `read_checkpoint` does, or if the names and shapes of the weights or the optimizer's
    parameter groups do not fit; nothing is changed then.
    """
    label = _label(src)
    tensors, meta = read_checkpoint(src)
    if not {"iteration", "model", "optimizer"} <= meta.keys():
        raise CheckpointError(
            f"load_checkpoint reads what save_checkpoint wrote, but {label} holds {sorted(meta)}; use read_checkpoint"
        )
    weights = _join(meta["model"], tensors)
    held, wanted = _shapes(weights), _shapes(model.state_dict())
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            raise CheckpointError(
                f"a checkpoint must fit the model, but for {name} {label} has {held.get(name, 'nothing')} and "
                f"the model {wanted.get(name, 'nothing')}; build the model with the config that was saved"
            )
    if optimizer is not None:
        if meta["optimizer"] is None:
            raise CheckpointError(
                f"an optimizer needs its saved state, but {label} was saved without one; pass optimizer=None"
            )
        try:
            optimizer.load_state_dict(_join(meta["optimizer"], tensors))
        except ValueError as error:
            raise CheckpointError(
                f"a checkpoint must fit the optimizer, but {label} does not: {error}; "
                "build the optimizer over the same parameter groups"
            ) from error
    model.load_state_dict(weights)
    return int(meta["iteration"])


def _serialize(tensors: Mapping[str, Tensor], meta: Mapping[str, JSON]) -> list[bytes | memoryview]:
    """The file's bytes: length of the header, header with the digest, tensors."""
    # safetensors refuses tensors that share memory or are strided, so give it contiguous copies.
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    plain = safetensors.torch.save(copies)
    start = 8 + int.from_bytes(plain[:8], "little")
    # Rewrite the header, because safetensors orders metadata differently each time.
    metadata = {"sha256": _ZEROS.decode(), "meta": json.dumps(meta, separators=(",", ":"))}
    fields = {"__metadata__": metadata, **json.loads(plain[8:start])}
    header = json.dumps(fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # keeps the tensors aligned
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(
            f"a checkpoint's names and metadata must fit in {MAX_HEADER_BYTES} bytes, but they take "
            f"{len(header)}; store large values as tensors"
        )
    prefix, body = len(header).to_bytes(8, "little"), memoryview(plain)[start:]
    return [prefix, header.replace(_ZEROS, _digest([prefix + header, body]), 1), body]


def _digest(parts: Sequence[bytes | memoryview]) -> bytes:
    """SHA-256 of a file, in hexadecimal, with zeros in place of its digest, which is in the first part."""
    first = memoryview(parts[0])
    sha256 = hashlib.sha256(first[: _DIGEST.start])
    for part in (_ZEROS, first[_DIGEST.stop :], *parts[1:]):
        sha256.update(part)
    return sha256.hexdigest().encode()


def _split(value: object, name: str, tensors: dict[str, Tensor]) -> JSON:
    """`value` as JSON, with its tensors moved to `tensors` under their dotted names. `_join` is the inverse.

    What JSON lacks becomes an object with one key: `$tensor`, `$tuple`, or `$int_keys` (a dict with integer keys).
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            if name in tensors:
                raise TypeError(f"tensors of a checkpoint need unique names, but two are named {name}")
            tensors[name] = value
            return {"$tensor": name}
        case list() | tuple():
            items = [_split(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        case Mapping():
            fields = {str(key): _split(item, f"{name}.{key}", tensors) for key, item in value.items()}
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return fields
            if all(type(key) is int for key in value):
                return {"$int_keys": fields}
    raise TypeError(
        "a state dict must hold tensors, numbers, strings, lists, tuples and dicts (with keys all names or all "
        f"integers), but {name} is a {type(value).__name__}; leave it out of the state dict"
    )


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(_join(item, tensors) for item in items)
        case {"$int_keys": fields}:
            return {int(key): _join(item, tensors) for key, item in fields.items()}
        case dict():
            return {key: _join(item, tensors) for key, item in value.items()}
        case list():
            return [_join(item, tensors) for item in value]
    return value


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        for name, value in state_dict.items()
    }


def _label(place: Place) -> str:
    return os.fspath(place) if isinstance(place, str | os.PathLike) else str(getattr(place, "name", "the file object"))
