"""`frog analyze --shard i/n` and `frog merge`."""

from __future__ import annotations

import json

from tests.cli.runs import files_of


def test_shards_merge_into_the_whole(model, in_process, tmp_path):
    parts = [tmp_path / f"{i}.json" for i in (1, 2, 3)]
    for i, path in enumerate(parts, start=1):
        assert in_process("analyze", model, "--shard", f"{i}/3", "--json", path).code == 0
    whole = tmp_path / "whole.json"
    done = in_process("merge", *reversed(parts), "--json", whole, "--csv", tmp_path / "w.csv")
    assert done.code == 0, done
    assert f"wrote {whole}" in done.err
    assert "attn.q_proj" in done.out
    single = tmp_path / "single.json"
    assert in_process("analyze", model, "--json", single).code == 0
    found, expected = json.loads(whole.read_text()), json.loads(single.read_text())
    assert found == expected, "times too: the cache gave the same rows"


def test_missing_part_is_refused_and_leaves_nothing(model, in_process, tmp_path):
    for i in (1, 2):
        in_process("analyze", model, "--shard", f"{i}/3", "--json", tmp_path / f"{i}.json")
    before = files_of(tmp_path)
    words = (tmp_path / "1.json", tmp_path / "2.json", "--json", tmp_path / "whole.json")
    done = in_process("merge", *words)
    assert (done.code, done.out) == (2, "")
    assert "parts 1 to 3, each once, got 1, 2" in done.err
    assert files_of(tmp_path) == before


def test_empty_parts_are_fine(model, in_process, tmp_path):
    parts = [tmp_path / f"{i}.json" for i in range(1, 7)]
    for i, path in enumerate(parts, start=1):
        assert in_process("analyze", model, "--shard", f"{i}/6", "--json", path).code == 0
    assert in_process("merge", *parts, "--format", "quiet").code == 0


def test_merging_a_partial_result_is_partial(tmp_path, in_process):
    import numpy as np
    from safetensors.numpy import save_file

    from tests.cli.runs import weight

    bad = weight(64, 64)
    bad[0, 0] = np.nan
    save_file({"a.weight": bad, "b.weight": weight(64, 64, 1)}, tmp_path / "m.safetensors")
    parts = [tmp_path / f"{i}.json" for i in (1, 2)]
    codes = [
        in_process("analyze", tmp_path / "m.safetensors", "--shard", f"{i}/2", "--json", path).code
        for i, path in enumerate(parts, start=1)
    ]
    assert sorted(codes) == [0, 5]
    assert in_process("merge", *parts).code == 5
