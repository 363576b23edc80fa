"""Which layer is which: by name, by alias, across a prefix; what has no partner says why."""

from __future__ import annotations

from types import SimpleNamespace

from frog.metrics.pairing import pair, pair_reports
from frog.types import LayerReport


def named(*names: str, shape: tuple[int, int] = (4, 4), aliases: tuple[str, ...] = ()):
    return [SimpleNamespace(name=x, shape=shape, aliases=aliases) for x in names]


def layer(name: str, skipped: str | None = None) -> LayerReport:
    return LayerReport(
        name=name, kind="linear", role="q", block=0, shape=(4, 4), dtype="float32", params=16,
        skipped=skipped,
    )  # fmt: skip


def test_the_same_names_are_partners_in_the_order_of_the_second() -> None:
    found = pair(named("a", "b"), named("b", "a"))
    assert found.pairs == (("b", "b"), ("a", "a"))
    assert not found.only_before and not found.only_after


def test_another_shape_is_no_partner_and_both_sides_say_so() -> None:
    found = pair(named("a"), named("a", shape=(4, 6)))
    assert found.pairs == ()
    assert found.only_before == found.only_after == {"a": "shape 4 x 4 before, 4 x 6 after"}


def test_what_one_model_lacks_is_listed() -> None:
    found = pair(named("a", "b", "c"), named("b", "c", "d"))
    assert found.only_before == {"a": "no layer of this name in the model after"}
    assert found.only_after == {"d": "no layer of this name in the model before"}


def test_a_tied_layer_is_found_by_its_other_name() -> None:
    found = pair(named("wte", aliases=("head",)), named("head"))
    assert found.pairs == (("wte", "head"),)


def test_a_prefix_that_one_model_has_more_is_passed_over_and_told() -> None:
    plain = [f"encoder.layer.{i}.q.weight" for i in range(4)]
    longer = [f"bert.{name}" for name in plain]
    found = pair(named(*plain), named(*longer, "classifier.weight"))
    assert found.pairs == tuple(zip(plain, longer, strict=True))
    assert list(found.only_after) == ["classifier.weight"]
    assert "'bert.'" in found.notes[0] and "after" in found.notes[0]
    back = pair(named(*longer), named(*plain))
    assert back.pairs == tuple(zip(longer, plain, strict=True))
    assert "before" in back.notes[0]


def test_one_name_that_ends_like_another_is_no_prefix() -> None:
    found = pair(named("a.q.weight", "b.k.weight", "c"), named("x.a.q.weight", "b.k.weight", "c"))
    assert "a.q.weight" in found.only_before and not found.notes


def test_nobody_gets_two_partners() -> None:
    found = pair(named("a", aliases=("b",)), named("a", "b"))
    assert found.pairs == (("a", "a"),) and list(found.only_after) == ["b"]


def test_a_layer_that_fails_in_one_report_is_listed_with_its_reason() -> None:
    fine, broken = layer("a"), layer("a", skipped="failed: a: truncated")
    found = pair_reports([fine], [broken])
    assert found.pairs == ()
    assert "truncated" in found.only_before["a"] and "truncated" in found.only_after["a"]


def test_layers_skipped_on_both_sides_are_nobodys_business() -> None:
    norm = layer("norm", skipped="a vector")
    assert not pair_reports([norm], [norm]).only_before
    found = pair_reports([layer("a")], [layer("a", skipped="not in --include b")])
    assert "not in --include b" in found.only_before["a"]
