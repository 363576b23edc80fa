"""The demo's data: what is on every machine, read and never run."""

from pathlib import Path

from frog.demo import Documented, documented_functions, neighbours, split_by_package


def test_functions_are_parsed_not_run(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        "raise SystemExit('run')\n"
        "def area(width, height):\n"
        '    """Give the area of a rectangle.\n\n    More."""\n'
        "    return width * height\n"
        'def short():\n    """Too short."""\n    return 1\n'
        'def empty():\n    """A docstring alone is no code to find."""\n'
    )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text(
        'def f():\n    """A function in a folder that is left out."""\n    return 1\n'
    )
    (tmp_path / "broken.py").write_text("def (:\n")
    found = documented_functions(tmp_path)
    assert [(x.module, x.name, x.says, x.code) for x in found] == [
        (
            "package.module",
            "area",
            "Give the area of a rectangle.",
            "area(width, height)\nreturn width * height",
        )
    ]


def test_no_docstring_of_the_library_is_in_its_own_code() -> None:
    library = documented_functions()
    assert len(library) > 2000 and len({x.says for x in library}) == len(library)
    assert any(x.module == "textwrap" and x.name == "dedent" for x in library)
    assert sum(x.says in x.code for x in library) < 0.01 * len(library)


def test_packages_are_apart() -> None:
    library = [
        Documented(module=f"package{i % 20}.module{i % 3}", name=f"f{i}", says="", code="")
        for i in range(100)
    ]
    train, test = split_by_package(library, 0.2, seed=3)
    first, second = ({x.module.split(".")[0] for x in part} for part in (train, test))
    assert not first & second and 0.1 < len(second) / len(first | second) < 0.3
    again = split_by_package(library, 0.2, seed=3)
    assert again == (train, test)


def test_neighbours_follow_each_other() -> None:
    text = (
        "The first sentence has seven words here. The second sentence has seven words, too."
        "\n\nrule ::= a | b c d e f g. Another sentence that has some words here."
    )
    assert neighbours(5, topics={"a": text}) == [
        (
            "The first sentence has seven words here.",
            "The second sentence has seven words, too.",
        )
    ]
    pairs = neighbours(300)
    assert len(set(pairs)) == 300 and pairs == neighbours(300)
