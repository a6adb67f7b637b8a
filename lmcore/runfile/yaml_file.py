"""Reading and writing the YAML of configs: the plain subset that cannot surprise or harm.

Scalars are those of YAML 1.2: `1e-3` is a number, only `true` and `false` are booleans (a bare `off` is text), and
only decimal integers are integers. NotEstimable, each with one line that names file and line: duplicate keys, tags such
as `!!python/object`, aliases (and so alias bombs), keys that are not text, files over 1 MiB. The line of every dotted
key is kept, so that later errors can name it too. What the keys mean is the business of `lmcore.runfile.run_file` and,
for a whole sweep, `sweeps.spec.sweep_spec`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmcore.errors import InputError

MAX_BYTES = 2**20

# Tag, pattern and first characters of YAML 1.2's scalars, without hexadecimal and octal integers.
_SCALARS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file says, and where."""

    name: str
    """The file as messages name it."""
    values: dict[str, Any]
    """Plain dicts, lists and scalars."""
    lines: dict[str, int]
    """Line (from 1) of every dotted key: `optim.lr`; `sizes.0.name`, and also `sizes.xs.name` by the item's name."""


def read_yaml(path: str | Path) -> YamlFile:
    """The YAML mapping in a file; InputError if it cannot be read or is not one."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: a config may hold 1 MiB (got more); give the path of a sweep's YAML file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(f"{path}:{line}: must be UTF-8 text (got byte 0x{byte:02x}); convert it") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlFile:
    """The YAML mapping in a text that messages call `name`; InputError if it is not one. An empty text is `{}`."""
    lines: dict[str, int] = {}
    try:
        values = _load(text, lines)
    except _MalformedError as error:
        raise InputError(f"{name}:{error.line}: malformed YAML: {error.problem}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{name}:1: must be a mapping (got {type(values).__name__}); begin with `name: my-sweep`")
    return YamlFile(name, values, lines)


def parse_value(text: str, name: str) -> Any:
    """One value as a command line gives it: `1e-3`, `true`, `[1, 2]`, `{low: 0, high: 1}`; InputError names `name`."""
    try:
        return _load(text, {})
    except _MalformedError as error:
        raise InputError(f"{name}: malformed YAML: {error.problem}") from None


def dump_yaml(values: dict[str, Any]) -> str:
    """YAML that `parse_yaml` reads back as equal values: sections in blocks, each mapping in a section on one line."""
    laid_out = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = {name: _OneLine(item) if isinstance(item, dict) else item for name, item in value.items()}
        elif isinstance(value, list | tuple):
            value = [_OneLine(item) if isinstance(item, dict) else item for item in value]
        laid_out[key] = value
    # Escapes beyond ASCII, because PyYAML writes U+0085 plain and reads it back as a space.
    return yaml.dump(laid_out, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=2**31)


class _MalformedError(Exception):
    """The text is not YAML, or not of the subset read here."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line = line
        self.problem = " ".join(problem.split())


def _load(text: str, lines: dict[str, int]) -> Any:
    """The value of a text; the line of every dotted key goes into `lines`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, "", lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise _MalformedError(mark.line + 1 if mark else 1, problem) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _MalformedError(line, f"the character U+{error.character:04X} is not allowed; remove it") from None
    except RecursionError:
        raise _MalformedError(1, "brackets are nested too deeply; remove some") from None


def _value(loader: "_Loader", node: yaml.Node, path: str, lines: dict[str, int]) -> Any:
    """A node as plain Python; notes the line of every key below `path` in `lines`."""
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem="a key must be text; quote it", problem_mark=key_node.start_mark)
            key = key_node.value
            if key in mapping:
                problem = f"duplicate key {key!r}; keep one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            key_path = f"{path}{key}"
            lines[key_path] = key_node.start_mark.line + 1
            mapping[key] = _value(loader, value_node, f"{key_path}.", lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item_node in enumerate(node.value):
            item_lines: dict[str, int] = {}
            items.append(_value(loader, item_node, "", item_lines))
            names = [str(index)]
            if isinstance(items[-1], dict) and isinstance(items[-1].get("name"), str):
                names.append(items[-1]["name"])
            for name in names:
                lines[f"{path}{name}"] = item_node.start_mark.line + 1
                lines.update({f"{path}{name}.{key}": line for key, line in item_lines.items()})
        return items
    try:
        return loader.construct_object(node)
    except ValueError:  # Python reads no integer of more than 4300 digits
        problem = f"a number of {len(node.value)} digits is too long; shorten it"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars, without tags and aliases."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's name; filled below)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = f"aliases are not allowed (got *{event.anchor}); write the value again"
        elif getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            problem = f"tags are not allowed (got {tag}); write a plain value"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that YAML 1.2 reads as a number; it never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _OneLine(dict[str, Any]):
    """A mapping that is written as `{low: 0.1, high: 0.2}`."""


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)
# PyYAML's own constructor takes 010 for an octal number.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Dumper.add_representer(
    _OneLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)
