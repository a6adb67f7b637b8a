"""Reading and writing the YAML of configs: a safe subset without YAML's surprises.

Scalars follow YAML 1.2: `1e-3` is a number, only `true` and `false` are booleans (a bare `off` is text), and integers
are decimal. Duplicate keys, tags such as `!!python/object`, aliases (and so alias bombs), keys that are not text, and
files over 1 MiB are refused with one line that names the file and line. What keys mean is defined in
`lmcore.runfile.run_file` and, for a whole sweep, in `sweeps.spec.sweep_spec`.
"""

import copy
import re
from collections.abc import Callable
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
    """The values of a YAML file and the lines they are on.

    >>> parse_yaml("optim:\\n  lr: 1e-3\\n", "a.yaml")
    YamlFile(name='a.yaml', values={'optim': {'lr': 0.001}}, lines={'optim': 1, 'optim.lr': 2})
    """

    name: str  # as written in messages
    values: dict[str, Any]  # plain dicts, lists and scalars
    lines: dict[str, int]
    """Line (from 1) of every dotted key. List items have their index and, if any, their name: sizes.0 and sizes.xs."""

    def draft(self) -> dict[str, Any]:
        """A copy of the values to edit. Empty sections (`sizes:` with its lines commented out) are left out."""
        return {key: value for key, value in copy.deepcopy(self.values).items() if value is not None}


def read_yaml(path: str | Path) -> YamlFile:
    """Read a file that holds a YAML mapping. Raises InputError if it cannot be read or holds anything else.

    >>> spec = read_yaml("configs/quick.yaml").values
    """
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
        raise InputError(
            f"{path}:{line}: must be UTF-8 text (got byte 0x{content[error.start]:02x}); convert it"
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlFile:
    """Parse a YAML mapping; an empty text is `{}`. `name` is the file's name in messages. Raises InputError."""
    lines: dict[str, int] = {}
    values = _load(text, lines, lambda line: f"{name}:{line}")
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{name}:1: must be a mapping (got {type(values).__name__}); begin with `name: my-sweep`")
    return YamlFile(name, values, lines)


def parse_value(text: str, name: str) -> Any:
    """Parse one value from a command line: `1e-3`, `[1, 2]`, `{low: 0, high: 1}`. InputErrors start with `name`."""
    return _load(text, {}, lambda _: name)


def parse_text(text: str, name: str) -> str:
    """A text from a command line, as it stands: `a#b`, `2024` and `[x]` are texts. Quotes around it are taken off.

    >>> parse_text("notes #2 [draft].txt", "--set data.source")
    'notes #2 [draft].txt'
    """
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return str(parse_value(text, name)) if quoted else text


def dump_yaml(values: dict[str, Any]) -> str:
    """YAML that `parse_yaml` reads back as equal values. Mappings inside a section are written on one line.

    >>> print(dump_yaml({"space": {"optim.lr": {"low": 0.1, "high": 1.0}}}), end="")
    space:
      optim.lr: {low: 0.1, high: 1.0}
    """
    laid_out = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = {name: _OneLine(item) if isinstance(item, dict) else item for name, item in value.items()}
        elif isinstance(value, list | tuple):
            value = [_OneLine(item) if isinstance(item, dict) else item for item in value]
        laid_out[key] = value
    # Characters beyond ASCII are escaped, because PyYAML writes U+0085 as it is and reads it back as a space.
    return yaml.dump(laid_out, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=2**31)


def _load(text: str, lines: dict[str, int], place: Callable[[int], str]) -> Any:
    """The value of a YAML text. Fills `lines`; errors start with `place` of the line at fault."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, "", lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = " ".join(", ".join(part for part in (error.context, error.problem) if part).split())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"the character U+{error.character:04X} is not allowed; remove it"
    except RecursionError:
        line, problem = 1, "brackets are nested too deeply; remove some"
    raise InputError(f"{place(line)}: malformed YAML: {problem}")


def _value(loader: "_Loader", node: yaml.Node, path: str, lines: dict[str, int]) -> Any:
    """The plain Python value of a node. Adds the line of every key below `path` to `lines`."""
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:str":
                raise _error("a key must be text; quote it", key_node)
            if key in mapping:
                raise _error(f"duplicate key {key!r}; keep one of them", key_node)
            lines[f"{path}{key}"] = key_node.start_mark.line + 1
            mapping[key] = _value(loader, value_node, f"{path}{key}.", lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item_node in enumerate(node.value):
            item_lines: dict[str, int] = {}
            item = _value(loader, item_node, "", item_lines)
            items.append(item)
            item_name = item.get("name") if isinstance(item, dict) else None
            for name in (str(index), *([item_name] if isinstance(item_name, str) else [])):
                lines[f"{path}{name}"] = item_node.start_mark.line + 1
                lines.update({f"{path}{name}.{key}": line for key, line in item_lines.items()})
        return items
    try:
        return loader.construct_object(node)
    except ValueError:  # Python refuses to parse integers of more than 4300 digits
        raise _error(f"a number of {len(node.value)} digits is too long; shorten it", node) from None


def _error(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars, and without tags and aliases."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's name; filled below)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _error(f"aliases are not allowed (got *{event.anchor}); write the value again", event)
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _error(f"tags are not allowed (got {tag}); write a plain value", event)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that YAML 1.2 reads as a number, and never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _OneLine(dict[str, Any]):
    """A mapping that is written as `{low: 0.1, high: 0.2}`."""


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)
# PyYAML's own constructor reads 010 as octal.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Dumper.add_representer(
    _OneLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)
