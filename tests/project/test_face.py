"""The public face: every name of it is used, with strict types, in face.py."""

import ast
from pathlib import Path

import odeae


def test_every_public_name_is_checked_for_its_types():
    """`make lint` runs pyright in strict mode over face.py."""
    tree = ast.parse((Path(__file__).parent / "face.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "odeae"
    }
    assert set(odeae.__all__) - used == set()
    assert all(hasattr(odeae, name) for name in used)
