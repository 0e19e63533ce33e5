"""Examples are overlays: YAML files that name only what differs from the file of the same name in params/.

The rule. Mappings are merged key by key. Every other value (number, text, list) takes the place of the base's, and a key that the
base lacks is added to its mapping. `_replace: [shards, ...]` at the top of an overlay lists mappings, as dotted keys, that are taken
from the overlay as a whole. `_like: [study_small, ...]` at the top of an example's file names examples whose files of the same name lie
below it. The base's text is edited in place, so that its comments stay, but for those inside a replaced mapping.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml

from components.base.errors import FarposeError

REPLACE, LIKE = "_replace", "_like"
Edit = tuple[int, int, str]  # start and end in the base's text, and what is written there


def laid_over(base: str, overlay: str, where: object) -> str:
    """The text of a parameter file with an overlay on it.

    Args:
        base, overlay: texts of YAML mappings in block style.
        where: the overlay, named in errors.
    Raises:
        FarposeError: either is no such mapping or has anchors, or `_replace` lists anything other than mappings of both.
    """
    below, above = _mapping(base, f"what {where} is laid over"), _mapping(overlay, where)
    replaced = next(([item.value for item in value.value] for key, value in above.value if key.value == REPLACE), [])
    for dotted in replaced:
        if not all(isinstance(_at(mapping, dotted), yaml.MappingNode) for mapping in (below, above)):
            raise FarposeError(f"{REPLACE} names {dotted!r}, which is not a mapping of both files", where=where, fix="correct the name")
    entries = [(key, value) for key, value in above.value if key.value not in (REPLACE, LIKE)]
    edits = sorted(_edits(below, entries, "", base, overlay, set(replaced)), key=lambda edit: edit[:2])
    # From the end backwards. Of two edits at one place, the replacement goes first and an addition to an inner mapping last.
    for start, end, text in reversed(edits):
        base = base[:start] + text + base[end:]
    return base


def example_over(base: str, path: Path) -> str:
    """The text of a parameter file with an example's file and all that this is like on it.

    Raises:
        FarposeError: what `layers` and `laid_over` raise.
    """
    for layer in layers(path):
        base = laid_over(base, layer.read_text(), layer)
    return base


def layers(path: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files that an example's file lays over the base, the lowest first: those that it is like, and itself.

    Args:
        path: EXAMPLES/NAME/FILE.yaml.
        above: the files that are like it.
    Raises:
        FarposeError: `_like` names no example with such a file, or leads back to its own.
    """
    named = next((value for key, value in _mapping(path.read_text(), path).value if key.value == LIKE), None)
    examples = [] if named is None else [one.value for one in named.value] if isinstance(named, yaml.SequenceNode) else [named.value]
    found: list[Path] = []
    for example in examples:
        other = path.parent.parent / example / path.name
        if not other.is_file():
            raise FarposeError(f"{LIKE} names {example!r}, which has no {path.name}", where=path, fix="correct the name")
        if other in (path, *above):
            raise FarposeError(f"{LIKE} names {example!r}, which is like it in turn", where=path, fix="take one of them out")
        found += layers(other, (*above, path))
    return [*dict.fromkeys(found), path]


def _mapping(text: str, where: object) -> yaml.MappingNode:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise FarposeError("the file has anchors, which would be changed in several places at once", where=where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise FarposeError(f"not valid YAML: {' '.join(str(error).split())}", where=where) from error
    if not isinstance(node, yaml.MappingNode) or not _is_block(node):
        raise FarposeError("expected a mapping of keys to values, one per line", where=where)
    return node


def _at(node: yaml.Node | None, dotted: str) -> yaml.Node | None:
    for name in dotted.split("."):
        node = {key.value: value for key, value in node.value}.get(name) if isinstance(node, yaml.MappingNode) else None
    return node


def _edits(
    below: yaml.MappingNode,
    entries: list[tuple[yaml.Node, yaml.Node]],
    prefix: str,
    base: str,
    overlay: str,
    replaced: set[str],
) -> Iterator[Edit]:
    known = {key.value: (key, value) for key, value in below.value}
    column = below.value[0][0].start_mark.column
    added = ""
    for key, value in entries:
        dotted = f"{prefix}{key.value}"
        if key.value not in known:
            added += _entry(overlay, key, value, column)
            continue
        old_key, old_value = known[key.value]
        both = isinstance(old_value, yaml.MappingNode) and isinstance(value, yaml.MappingNode) and old_value.value and value.value
        merged = both and dotted not in replaced
        if merged and _is_block(old_value):
            yield from _edits(old_value, value.value, f"{dotted}.", base, overlay, replaced)
        elif merged:
            yield _value_edit(base, old_value, _inline(value, overlay, f"{dotted}.", replaced, old_value, base))
        elif _is_lines(value) or _is_lines(old_value):
            start = base.rfind("\n", 0, old_key.start_mark.index) + 1
            yield start, _line_end(base, _end(base, old_value)), _entry(overlay, key, value, column)
        else:
            yield _value_edit(base, old_value, overlay[value.start_mark.index : value.end_mark.index])
    if added:
        end = _line_end(base, _end(base, below))
        yield end, end, added if base[:end].endswith("\n") else f"\n{added}"


def _inline(
    node: yaml.Node, text: str, prefix: str = "", replaced: Collection[str] = (), below: yaml.Node | None = None, base: str = ""
) -> str:
    """A value on one line, without comments; a mapping is laid over the mapping `below`, whose text is `base`."""
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(_inline(item, text) for item in node.value)}]"
    if isinstance(node, yaml.ScalarNode):
        shown = text[node.start_mark.index : node.end_mark.index].strip()
        plain = node.style in ("'", '"') or not re.search(r"[][{},|>#\n]|:\s", shown)
        return shown if plain else json.dumps(node.value, ensure_ascii=False)
    found = {}
    if isinstance(below, yaml.MappingNode):
        found = {key.value: (value, _inline(value, base)) for key, value in below.value}
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        under = found[key.value][0] if key.value in found and dotted not in replaced else None
        found[key.value] = value, _inline(value, text, f"{dotted}.", replaced, under, base)
    return f"{{{', '.join(f'{name}: {shown}' for name, (_, shown) in found.items())}}}"


def _value_edit(base: str, old: yaml.Node, new: str) -> Edit:
    """A value within its line; a comment behind it stays in its column."""
    start, end = old.start_mark.index, old.end_mark.index
    gap = len(base[end:]) - len(base[end:].lstrip(" "))
    if gap and base[end + gap : end + gap + 1] == "#":
        new, end = new + " " * max(2, end - start + gap - len(new)), end + gap
    return start, end, new if base[start - 1] == " " else f" {new}"


def _entry(text: str, key: yaml.Node, value: yaml.Node, column: int) -> str:
    """The lines of a key and its value, with their comments, moved to a column."""
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    if text[start : key.start_mark.index].strip():  # one of several keys on a line
        return f"{' ' * column}{key.value}: {_inline(value, text)}\n"
    lines = text[start : _line_end(text, _end(text, value))].splitlines()
    moved = [f"{' ' * column}{line[key.start_mark.column :]}" if line.strip() else "" for line in lines]
    return "".join(f"{line}\n" for line in moved)


def _end(text: str, node: yaml.Node) -> int:
    """The index after a value's last character; PyYAML's end marks of block collections reach to the next key."""
    if _is_lines(node) and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(node, yaml.MappingNode) else last)
    return node.start_mark.index + len(text[node.start_mark.index : node.end_mark.index].rstrip())


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _is_block(node: yaml.Node | None) -> bool:
    """A mapping with a key per line."""
    return isinstance(node, yaml.MappingNode) and not node.flow_style and bool(node.value)


def _is_lines(node: yaml.Node) -> bool:
    """A mapping or list in block style."""
    return isinstance(node, yaml.CollectionNode) and not node.flow_style
