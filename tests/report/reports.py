"""Reports of any content, for laws that hold whatever a report says."""

from __future__ import annotations

from hypothesis import strategies as st

from frog.types import (
    DepthProfile,
    Farms,
    Finding,
    LayerReport,
    ModelReport,
    NullLook,
    Overlap,
    Pair,
    Pathway,
    Ranked,
    Settings,
)

NUMBERS = st.floats(allow_infinity=False) | st.integers(-(2**40), 2**40).map(float)
COUNTS = st.integers(0, 2**40)
WORDS = st.text(max_size=8) | st.sampled_from(["alpha", "h.0.attn.weight[q]", "α̂", "\x1b[31m", ""])
NAMES = st.sampled_from(["alpha", "D", "norm", "stable_rank", "num_evals"]) | WORDS

LOOKS = st.builds(
    NullLook, name=NAMES, value=NUMBERS, percentile=NUMBERS, low=NUMBERS, high=NUMBERS
)
CURVES = st.fixed_dictionaries(
    {
        "eigenvalue": st.lists(NUMBERS, max_size=5),
        "survival": st.lists(NUMBERS, max_size=5),
        "bulk_edge": NUMBERS,
        "xmin": NUMBERS,
        "alpha": NUMBERS,
    }
)
LAYERS = st.builds(
    LayerReport,
    name=WORDS,
    kind=WORDS,
    role=WORDS,
    block=st.none() | COUNTS,
    shape=st.lists(COUNTS, max_size=4).map(tuple),
    dtype=WORDS,
    params=COUNTS,
    aliases=st.lists(WORDS, max_size=2).map(tuple),
    averaged=st.booleans(),
    skipped=st.none() | WORDS,
    rule=WORDS,
    values=st.dictionaries(NAMES, NUMBERS, max_size=4),
    null=st.dictionaries(NAMES, LOOKS, max_size=2),
    fit_status=st.sampled_from(["", "ok", "too_few", "nonfinite"]),
    verdicts=st.lists(WORDS, max_size=2).map(tuple),
    notes=st.lists(WORDS, max_size=2).map(tuple),
    curve=st.none() | CURVES,
    spectrum=st.none() | st.lists(NUMBERS, max_size=4).map(tuple),
    seconds=st.floats(0, 1e6),
    position=COUNTS,
    digest=WORDS,
)
FINDINGS = st.builds(
    Finding,
    kind=WORDS,
    certainty=st.sampled_from(["certain", "possible"]),
    severity=st.sampled_from(["error", "warning", "info"]),
    layer=WORDS,
    value=NUMBERS,
    threshold=NUMBERS,
    text=WORDS,
)
SETTINGS = st.builds(
    Settings,
    estimator=st.sampled_from(["ks", "hill", "tpl"]),
    precision=st.sampled_from(["exact", "fast"]),
    compat=st.none() | st.just("weightwatcher"),
    min_evals=COUNTS,
    bootstrap=COUNTS,
    goodness=COUNTS,
    seed=COUNTS,
    curves=st.booleans(),
    save_spectra=st.booleans(),
    randomize=COUNTS,
    farms=st.builds(Farms, side=COUNTS, ratio=st.floats(0.1, 9), per_dimension=COUNTS),
    flow=st.booleans(),
    flow_rank=COUNTS,
)
OVERLAPS = st.builds(Overlap, value=NUMBERS, expected=NUMBERS, spread=NUMBERS, z=NUMBERS)
HEADS = st.none() | COUNTS
PAIRS = st.builds(
    Pair,
    writer=WORDS,
    reader=WORDS,
    kind=st.sampled_from(["residual", "ov", "qk"]),
    k=COUNTS,
    dimension=COUNTS,
    overlaps=st.dictionaries(st.sampled_from(["plain", "trimmed", "folded"]), OVERLAPS),
    head=HEADS,
    gain=NUMBERS,
    weight=NUMBERS,
)
PATHWAYS = st.builds(
    Pathway,
    layers=st.lists(WORDS, max_size=3).map(tuple),
    heads=st.lists(HEADS, max_size=3).map(tuple),
    weight=NUMBERS,
    weakest=NUMBERS,
)
PROFILES = st.builds(
    DepthProfile,
    role=WORDS,
    metric=NAMES,
    blocks=st.lists(COUNTS, max_size=3).map(tuple),
    values=st.lists(NUMBERS, max_size=3).map(tuple),
    slope=NUMBERS,
    slope_low=NUMBERS,
    slope_high=NUMBERS,
    roughness=NUMBERS,
    outside=NUMBERS,
)
RANKING = st.builds(Ranked, layer=WORDS, place=COUNTS, score=NUMBERS, reason=WORDS)
SHARDS = st.none() | st.tuples(st.integers(1, 9), st.integers(0, 9)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)
REPORTS = st.builds(
    ModelReport,
    path=WORDS,
    digest=WORDS,
    format=WORDS,
    frog_version=WORDS,
    settings=SETTINGS,
    layers=st.lists(LAYERS, max_size=3).map(tuple),
    findings=st.lists(FINDINGS, max_size=2).map(tuple),
    summary=st.dictionaries(NAMES, NUMBERS | COUNTS, max_size=4),
    notes=st.lists(WORDS, max_size=2).map(tuple),
    shard=SHARDS,
    pairs=st.lists(PAIRS, max_size=2).map(tuple),
    pathways=st.lists(PATHWAYS, max_size=2).map(tuple),
    profiles=st.lists(PROFILES, max_size=2).map(tuple),
    ranking=st.lists(RANKING, max_size=2).map(tuple),
)
