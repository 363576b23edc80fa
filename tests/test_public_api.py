"""The public names are one visible list, each defined, documented, and lazily imported."""

import inspect
import subprocess
import sys
from pathlib import Path

import frog

SRC = Path(frog.__file__).parent


def test_all_is_sorted_and_complete() -> None:
    names = [name for name in frog.__all__ if name != "__version__"]
    assert names == sorted(names)
    assert set(names) == set(frog._HOMES)


def test_every_name_is_defined_where_its_home_says_and_documented() -> None:
    for name, home in frog._HOMES.items():
        member = getattr(frog, name)
        assert f"{member.__module__}.".startswith(f"{home}."), name
        assert inspect.getdoc(member), name


def test_no_verb_shares_a_word_with_a_room() -> None:
    rooms = {path.name.removesuffix(".py") for path in SRC.iterdir()}
    verbs = {name for name in frog.__all__ if name.islower()}
    assert not rooms & verbs


def test_import_needs_neither_torch_nor_scipy() -> None:
    code = "import frog, sys; print({'torch', 'scipy', 'rich', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(frog, "no_such_name")
