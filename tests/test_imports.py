"""The static import graph and digests of code, on a small made-up package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.base import imports
from components.base.errors import FarposeError
from tests.repositories import PYTHON

FILES = {
    "house/__init__.py": "",
    "house/base.py": "import os\n",
    "house/zoo.py": "from house.heads import plain\nfrom house import base\n",
    "house/heads/__init__.py": "from house.base import thing\n",
    "house/heads/plain.py": "import typing\nif typing.TYPE_CHECKING:\n    from house import never\nelse:\n    import house.otherwise\n",
    "house/otherwise.py": "",
    "house/never.py": "",
    "house/methods/__init__.py": "",
    "house/methods/mine.py": "def build():\n    from house import late\n    return late\n",
    "house/methods/theirs.py": "from . import mine\nfrom ..zoo import network\n",
    "house/late.py": "",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def closure(root: Path, *roots: str) -> set[str]:
    return {name.removeprefix("house.") for name in imports.read(root, ["house"]).closure([f"house.{name}" for name in roots])}


def test_the_closure_is_all_that_runs_and_nothing_else(house):
    zoo = {"house", "zoo", "heads", "heads.plain", "base", "otherwise"}  # an imported module's package runs; TYPE_CHECKING does not
    assert closure(house, "zoo") == zoo
    assert closure(house, "zoo", "methods.mine") == zoo | {"methods", "methods.mine", "late"}  # late imports count
    assert closure(house, "methods.theirs") == zoo | {"methods", "methods.mine", "methods.theirs", "late"}  # relative ones, too
    with pytest.raises(FarposeError, match=r"unknown module 'house\.zo'.*house\.zoo"):
        closure(house, "zo")


def test_the_closure_is_what_python_imports(house):
    """The oracle is the interpreter, of a package without late imports and without TYPE_CHECKING."""
    program = "import sys, house.zoo; print(*[name for name in sys.modules if name.split('.')[0] == 'house'])"
    (house / "house" / "heads" / "__init__.py").write_text("from house import base\n")
    (house / "house" / "heads" / "plain.py").write_text("import house.otherwise\n")
    ran = subprocess.run([PYTHON, "-c", program], cwd=house, capture_output=True, text=True, check=True).stdout.split()
    assert set(imports.read(house, ["house"]).closure(["house.zoo"])) == set(ran)


def test_circles_are_found_and_only_circles(house):
    assert imports.read(house, ["house"]).circles() == []  # `house.heads.plain` also imports `house.heads`, its package: no circle
    (house / "house" / "late.py").write_text("def f():\n    from house.methods.theirs import build\n")
    (house / "house" / "methods" / "mine.py").write_text("def f():\n    import house.late\n")
    assert imports.read(house, ["house"]).circles() == [["house.late", "house.methods.mine", "house.methods.theirs"]]


CODE = '''"""Module."""
import os  # why


class A:
    """Class."""

    x: int = 1
    """An attribute."""

    def f(self, a, *, b=None):
        """Function."""
        return f"{a!r:>{b}}" + (
            "text"
        )
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""Module."""\n', "", True),
        ("# why", "# another reason, ünïcödé", True),
        ('        """Function."""\n', "        # nothing\n\n", True),
        ('    """An attribute."""\n', "", True),
        ('(\n            "text"\n        )', "'text'", True),
        ("x: int = 1", "x: int = 2", False),
        ("x: int = 1", "x: int = True", False),
        ("b=None", "b=0", False),
        ("b=None", "b", False),
        ("!r", "!s", False),
        ('"text"', '""', False),
        ("def f", "def g", False),
    ],
)
def test_a_digest_is_of_the_code_alone(tmp_path, old, new, same):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    assert CODE.count(old) == 1
    first.write_text(CODE)
    second.write_text(CODE.replace(old, new))
    assert (imports.code_digest(first) == imports.code_digest(second)) is same


def test_a_digest_does_not_depend_on_the_python_version(tmp_path):
    """Fields that one version has and another has not are empty in code that both can read; here made up for every node."""
    import ast

    from components.base.imports import _plain

    tree = ast.parse(CODE)
    plain = _plain(tree)
    for node in ast.walk(tree):
        node._fields = (*node._fields, "type_params", "kind_of_later")  # as 3.12 added `type_params` to functions and classes
        node.type_params, node.kind_of_later = [], None
    assert _plain(tree) == plain


def test_a_file_that_is_no_python_is_one_line(house):
    (house / "house" / "late.py").write_text("def f(:\n")
    with pytest.raises(FarposeError, match=r"late\.py: not valid Python: .*line 1"):
        imports.read(house, ["house"])
