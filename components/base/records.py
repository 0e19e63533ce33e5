"""Records that the modules of a folder declare, one each, under one agreed name.

Methods, codecs, degradation protocols and approaches are found this way, so adding one means adding a file and no list entry.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from components.base.errors import FarposeError, unknown_name


@functools.cache
def records(package: str, attribute: str, required: bool = True) -> dict[str, Any]:
    """Every module's record in a package, by the record's own `name`, in the order of the modules' names.

    Args:
        package: dotted name, such as "components.models.methods".
        attribute: name of the record in each module, such as "METHOD"; it may be a tuple of records.
        required: every module must have one; False skips modules without a record, for packages that also hold helpers.
    Raises:
        FarposeError: a module has no such record, or two records share a name.
    """
    return {name: record for name, (record, _) in _declared(package, attribute, required).items()}


def module_of(package: str, attribute: str, name: str) -> str:
    """Dotted name of the module that declares a record.

    Raises:
        FarposeError: there is no such record.
    """
    known = _declared(package, attribute, False)
    if name not in known:
        raise unknown_name(attribute.lower(), name, known, where=package)
    return known[name][1]


def _declared(package: str, attribute: str, required: bool) -> dict[str, tuple[Any, str]]:
    """Record and module by the record's name."""
    found: dict[str, tuple[Any, str]] = {}
    for module in modules(package):
        declared = getattr(importlib.import_module(module), attribute, None)
        if declared is None and not required:
            continue
        if declared is None:
            raise FarposeError(f"the module declares no {attribute}", where=module, fix=f"add `{attribute} = ...`, or move it elsewhere")
        for record in declared if isinstance(declared, tuple) else (declared,):
            if record.name in found:
                raise FarposeError(f"{attribute} {record.name!r} is already in {found[record.name][1]}", where=module, fix="rename either")
            found[record.name] = record, module
    return found


def modules(package: str) -> list[str]:
    """Dotted names of a package's modules, sorted."""
    path = importlib.import_module(package).__path__
    return sorted(f"{package}.{module.name}" for module in pkgutil.iter_modules(path))
