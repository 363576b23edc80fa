"""Quantised checkpoints: plain transformers loads what FROG's own rounding gives, bit for bit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frog
from frog.compression.checkpoints import (
    FORMATS,
    write_checkpoint,
    write_compressed_tensors,
    write_torchao,
)
from frog.compression.curves import Bits, Sparsity
from frog.compression.formats import CheckpointFormat
from frog.errors import FrogError, MissingPackage, ModelError, UnsupportedFormat, UsageError
from frog.numerics.rounding import Rounding, round_to_nearest, rounded_values
from frog.types.reports import Settings

transformers = pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("torchao", reason="needs torchao: pip install 'frog[compress]'")
pytest.importorskip("compressed_tensors", reason="needs frog[compress]")

WRITERS = {"torchao": write_torchao, "compressed-tensors": write_compressed_tensors}
WIDTHS = [
    Rounding(bits=bits, group=group, symmetric=symmetric)
    for symmetric, bits, group in itertools.product(
        (True, False), range(1, 9), (16, None)
    )
    if symmetric or bits < 8
]  # fmt: skip
"""Every level that both formats store."""


def llama(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
            "tie_word_embeddings": True, **settings,
        }
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def saved(model: Any, folder: Path, **settings: Any) -> Path:
    model.save_pretrained(folder, **settings)
    return folder


def levels_of(model: nn.Module) -> dict[str, Bits]:
    """Every way to round on one projection or more, all other matrices left out."""
    names = [n for n, x in model.named_parameters() if "proj" in n and x.ndim == 2]
    return {name: Bits(how) for name, how in zip(names, WIDTHS, strict=False)}


def fake(model: Any, levels: dict[str, Bits]) -> Any:
    """The model in memory with rounded weights."""
    with torch.no_grad():
        for name, level in levels.items():
            model.get_parameter(name).copy_(
                rounded_values(model.get_parameter(name), level.rounding)
            )
    return model


def loaded(folder: Path, like: Any) -> Any:
    return type(like).from_pretrained(folder).eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Dense weights by module, whatever holds them; after a forward pass."""
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            dense = weight.dequantize() if hasattr(weight, "qdata") else weight
            found[name] = dense.detach()
    return found


def run(model: Any) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(1, 25).view(2, -1))[0]


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_reloaded_weights_and_outputs_are_those_of_fake_quantisation(
    format: str, shards: bool, tmp_path: Path
) -> None:
    model = llama()
    levels = levels_of(model)
    assert {x.rounding for x in levels.values()} == set(WIDTHS)
    folder = saved(model, tmp_path / "m", max_shard_size="40KB" if shards else "1GB")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == shards
    written = WRITERS[format](folder, levels, tmp_path / "out")
    again = loaded(tmp_path / "out", model)
    expected = fake(llama(), levels)
    assert torch.equal(run(again), run(expected))
    found = weights(again)
    for name, weight in weights(expected).items():
        assert torch.equal(found[name], weight), name
    assert written.difference == 0 and written.path == tmp_path / "out"


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("format", WRITERS)
def test_a_written_folder_measures_as_the_rounded_model(
    format: str, shards: bool, tmp_path: Path
) -> None:
    model = llama()
    levels = levels_of(model)
    size = "40KB" if shards else "1GB"
    WRITERS[format](saved(model, tmp_path / "m", max_shard_size=size), levels, tmp_path / "out")
    plain = saved(fake(llama(), levels), tmp_path / "plain")
    expected = {x.name: x for x in frog.inspect(plain).matrices}
    found = {x.name: x for x in frog.inspect(tmp_path / "out").matrices}
    assert found.keys() == expected.keys() and set(levels) <= found.keys()
    for name, matrix in expected.items():
        assert np.array_equal(found[name].loader.load(), matrix.loader.load()), name
    settings = Settings(min_evals=10, bootstrap=20)
    reports = [frog.analyze(folder, settings) for folder in (plain, tmp_path / "out")]
    layers, again = ({x.name: x for x in report.layers} for report in reports)
    assert layers.keys() == again.keys()
    fitted = 0
    for name, layer in layers.items():
        assert again[name].skipped == layer.skipped
        np.testing.assert_equal(dict(again[name].values), dict(layer.values), err_msg=name)
        assert again[name].role == layer.role and again[name].verdicts == layer.verdicts
        fitted += name in levels and layer.values["alpha"] > 0
    assert fitted == len(levels)
    np.testing.assert_equal(dict(reports[1].summary), dict(reports[0].summary))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", WRITERS)
def test_in_16_bits_only_the_scales_are_rounded(
    format: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = llama(dtype)
    levels = levels_of(model)
    written = WRITERS[format](saved(model, tmp_path / "m"), levels, tmp_path / "out")
    again = loaded(tmp_path / "out", model)
    run(again)
    unit = torch.finfo(dtype).eps
    assert 0 < written.difference < unit
    found, expected = weights(again), weights(fake(llama(dtype), levels))
    for name, weight in expected.items():
        assert found[name].dtype == dtype
        if f"{name}.weight" not in levels:
            assert torch.equal(found[name], weight), name
        else:  # a scale and a product, each rounded once, against one
            torch.testing.assert_close(found[name], weight, rtol=2 * unit, atol=1e-6)


def test_torchao_itself_rounds_to_the_same(tmp_path: Path) -> None:
    """The twin: the library quantises the live model with the configuration of config.json.

    It multiplies by 1 / scale, and ties may fall to the other side.
    """
    from torchao.quantization import quantize_

    model = llama()
    levels = {name: x for name, x in levels_of(model).items() if x.rounding.bits > 1}
    write_torchao(saved(model, tmp_path / "m"), levels, tmp_path / "out")
    again = loaded(tmp_path / "out", model)
    own = again.config.quantization_config.quant_type
    assert {f"{name}.weight" for name in own.fqn_to_config} == set(levels)
    exact = {name: model.get_parameter(name).detach().clone() for name in levels}
    quantize_(model, own, filter_fn=None)
    for name, weight in exact.items():
        mine, its = again.get_parameter(name), model.get_parameter(name)
        torch.testing.assert_close(mine.scale, its.scale, rtol=1e-6, atol=0)
        apart = mine.qdata != its.qdata
        steps = weight / mine.scale.repeat_interleave(weight.shape[1] // mine.scale.shape[1], 1)
        assert ((steps[apart].abs() % 1 - 0.5).abs() < 1e-4).all(), name
        assert torch.equal(mine.zero_point, its.zero_point.to(torch.int8)), name


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [16, None])
def test_compressed_tensors_itself_packs_the_same(bits: int, group: int | None) -> None:
    """The twin: the library rounds with our scales, and its own are ours."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    from frog.serial.config_groups import config_groups

    how = Rounding(bits=bits, group=group)
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(bits))
    mine = FORMATS["compressed-tensors"].store("a", round_to_nearest(weight, how), how).tensors
    (made,) = config_groups({"a": how}).values()
    scheme = QuantizationScheme.model_validate(made)
    grouped = weight.view(8, -1, group or 64)
    scale, _ = calculate_qparams(grouped.amin(2), grouped.amax(2), scheme.weights)
    torch.testing.assert_close(mine["a.weight_scale"], scale, rtol=1e-6, atol=0)
    state = {"weight": weight, "weight_scale": mine["a.weight_scale"]}
    packer = BaseCompressor.get_value_from_registry("pack-quantized")
    its = packer.compress(state, scheme)
    for name, value in its.items():
        assert torch.equal(mine[f"a.{name}"], value), name


def test_all_other_tensors_and_files_stay_as_they_are(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = llama()
    folder = saved(model, tmp_path / "m")
    held = load_file(folder / "model.safetensors")
    held["odd"] = torch.tensor([1, 2], dtype=torch.uint8)  # of no module
    save_file(held, folder / "model.safetensors", {"format": "pt", "made_by": "a test"})
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"weights of another module")
    name = "model.layers.1.mlp.up_proj.weight"
    for format, write in WRITERS.items():
        write(folder, {name: Bits(Rounding(bits=4))}, tmp_path / format)
        after = load_file(tmp_path / format / "model.safetensors")
        assert name not in after
        for other in set(held) - {name}:
            assert torch.equal(after[other], held[other]), other
        files = {str(x.relative_to(tmp_path / format)) for x in (tmp_path / format).rglob("*")}
        assert {"tokenizer.json", "2_Dense/pytorch_model.bin", "config.json"} <= files
        assert "pytorch_model.bin" not in files
        before = json.loads((folder / "config.json").read_text())
        config = json.loads((tmp_path / format / "config.json").read_text())
        assert config.pop("quantization_config")["quant_method"] == format
        assert config == before


def sizes(folder: Path) -> int:
    return sum(x.stat().st_size for x in folder.glob("*.safetensors"))


@pytest.mark.parametrize("format", WRITERS)
def test_sizes_are_those_of_the_files(format: str, tmp_path: Path) -> None:
    model = llama()
    folder = saved(model, tmp_path / "m", max_shard_size="40KB")
    levels = {name: Bits(Rounding(bits=4, group=16)) for name in levels_of(model)}
    written = WRITERS[format](folder, levels, tmp_path / "out")
    params = sum(model.get_parameter(name).numel() for name in levels)
    assert written.bytes_before == sizes(folder)
    assert written.bytes_after == sizes(tmp_path / "out")
    assert written.matrix_bytes_before == 4 * params
    # 16 codes, a scale of 4 bytes, for torchao a zero point of one
    per_group = 16 + 4 + 1 if format == "torchao" else 16 / 2 + 4
    shapes = 16 * len(levels) if format == "compressed-tensors" else 0
    assert written.matrix_bytes_after == params / 16 * per_group + shapes
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert 0 < index["metadata"]["total_size"] < written.bytes_after  # the rest are headers
    assert written.bits_per_weight == pytest.approx(8 * written.matrix_bytes_after / params)


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_files_shrink_to_the_bits_and_torchaos_to_eight(bits: int, tmp_path: Path) -> None:
    model = llama()
    levels = {name: Bits(Rounding(bits=bits, group=None)) for name in levels_of(model)}
    folder = saved(model, tmp_path / "m")
    packed, bytes_ = (
        write(folder, levels, tmp_path / format).bits_per_weight
        for format, write in reversed(WRITERS.items())
    )
    held = max(bits, 2)
    assert held <= packed < held + 1.1 and 8 <= bytes_ < 9


def test_stories_at_four_bits_are_smaller_and_the_same(tmp_path: Path) -> None:
    from tests.tuning.real import stories

    model = stories().eval()
    levels = {
        name: Bits(Rounding(bits=4, group=None if "down" in name else 64))
        for name, x in model.named_parameters()
        if "proj" in name
    }
    written = write_compressed_tensors(saved(model, tmp_path / "m"), levels, tmp_path / "out")
    assert written.matrix_bytes_after < 0.17 * written.matrix_bytes_before
    assert written.bytes_after < 0.5 * written.bytes_before
    assert torch.equal(run(loaded(tmp_path / "out", model)), run(fake(model, levels)))


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITERS)
def test_minilm_with_mixed_widths_gives_the_same_sentences(
    format: str, tmp_path: Path, minilm: Path
) -> None:
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    names = [n for n, x in model.named_parameters() if ".layer." in n and x.ndim == 2]
    levels = {n: Bits(Rounding(bits=(2, 3, 4, 8)[i % 4])) for i, n in enumerate(names)}
    written = WRITERS[format](minilm, levels, tmp_path / "out")
    assert torch.equal(run(loaded(tmp_path / "out", model)), run(fake(model, levels)))
    assert written.bits_per_weight < (4.76 if format == "compressed-tensors" else 8.63)


# ------------------------------------------------------------------------------ bad input

UP = "model.layers.0.mlp.up_proj.weight"
FOUR = Bits(Rounding(bits=4, group=16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(llama(), tmp_path / "m")


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({}, "got none"),
        ({UP: Sparsity(share=0.5)}, "stores bits, got Sparsity"),
        ({"model.layers.0.mlp.upproj.weight": FOUR}, "Did you mean"),
        ({"model.layers.0.mlp.up_proj": FOUR}, "must be the weight of a module"),
        ({"model.layers.0.self_attn.qkv.weight[q]": FOUR}, "a part of a tensor"),
        ({"model.embed_tokens.weight": FOUR}, "the weight of a Embedding"),
        ({"model.norm.weight": FOUR}, "the weight of a LlamaRMSNorm"),
        ({UP: Bits(Rounding(bits=4, group=24))}, "take one of 2, 4, 8, 16, 32, or None"),
    ],
)
@pytest.mark.parametrize("format", WRITERS)
def test_levels_that_cannot_be_stored_are_refused(
    format: str, levels: Any, words: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        WRITERS[format](folder, levels, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_eight_asymmetric_bits_do_not_fit_into_packed_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="take the symmetric form or 7 bits"):
        write_compressed_tensors(
            folder, {UP: Bits(Rounding(bits=8, group=16, symmetric=False))}, tmp_path / "out"
        )


def test_a_head_that_shares_the_embedding_is_refused(tmp_path: Path) -> None:
    """Some files hold both names; transformers ties them all the same."""
    from safetensors.torch import load_file, save_file

    folder = saved(llama(), tmp_path / "m")
    held = load_file(folder / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"lm_head\.weight is shared with model\.embed_tokens"):
        write_torchao(folder, {"lm_head.weight": FOUR}, tmp_path / "out")
    own = llama(tie_word_embeddings=False)
    apart = saved(own, tmp_path / "apart")
    expected = run(fake(own, {"lm_head.weight": FOUR}))
    for format, write in WRITERS.items():
        write(apart, {"lm_head.weight": FOUR}, tmp_path / format)
        assert torch.equal(run(loaded(tmp_path / format, own)), expected)


def test_fused_conv1d_of_gpt2_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)
    folder = saved(transformers.GPT2LMHeadModel(config), tmp_path / "m")
    with pytest.raises(UsageError, match="the weight of a Conv1D: the formats store Linear"):
        write_compressed_tensors(
            folder, {"transformer.h.0.attn.c_attn.weight": FOUR}, tmp_path / "out"
        )


def test_names_on_disk_must_be_those_of_the_architecture(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaModel"]}))
    with pytest.raises(UsageError, match="write it with save_pretrained"):
        write_torchao(folder, {UP: FOUR}, tmp_path / "out")


def test_matrices_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = llama()
    with torch.no_grad():
        model.get_parameter(UP)[0, 0] = torch.inf
    with pytest.raises(UsageError, match=rf"{UP}: .*must be finite"):
        write_torchao(saved(model, tmp_path / "m"), {UP: FOUR}, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_model_is_quantised_once(folder: Path, tmp_path: Path) -> None:
    write_torchao(folder, {UP: FOUR}, tmp_path / "out")
    with pytest.raises(UsageError, match="is quantised already"):
        write_torchao(tmp_path / "out", {"lm_head.weight": FOUR}, tmp_path / "again")


@pytest.mark.parametrize(
    ("break_it", "error", "words"),
    [
        (lambda x: (x / "config.json").unlink(), ModelError, "none with a config.json"),
        (lambda x: (x / "config.json").write_text("{"), ModelError, "cannot make a model"),
        (lambda x: (x / "model.safetensors").unlink(), UnsupportedFormat, "save_pretrained"),
        (lambda x: (x / "model.safetensors").write_bytes(b"no"), ModelError, "cannot be read"),
    ],
)
def test_damaged_folders_are_model_errors(
    break_it: Any, error: type[Exception], words: str, folder: Path, tmp_path: Path
) -> None:
    break_it(folder)
    with pytest.raises(error, match=words):
        write_torchao(folder, {UP: FOUR}, tmp_path / "out")


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {"a": "../a.safetensors"}}'])
def test_an_index_names_files_beside_it(text: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="must map tensors to files beside it"):
        write_torchao(folder, {UP: FOUR}, tmp_path / "out")


def test_files_of_another_shape_are_model_errors(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    held[UP] = held[UP].reshape(-1)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="must have two axes"):
        write_torchao(folder, {UP: FOUR}, tmp_path / "out")


def test_a_shard_that_is_absent_is_named(tmp_path: Path) -> None:
    folder = saved(llama(), tmp_path / "m", max_shard_size="40KB")
    gone = sorted(folder.glob("*.safetensors"))[2]
    gone.unlink()
    with pytest.raises(ModelError, match=f"{gone.name}: named in"):
        write_torchao(folder, {UP: FOUR}, tmp_path / "out")


def test_outputs_that_are_not_free_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_torchao(folder, {UP: FOUR}, tmp_path / "empty")
    for out, words in (
        (tmp_path / "empty", "must not exist or be an empty folder"),
        (folder / "config.json", "must not exist or be an empty folder"),
        (folder / "inside", "lies in the model"),
        (tmp_path / "no" / "out", "its folder must exist"),
    ):
        with pytest.raises(UsageError, match=words):
            write_torchao(folder, {UP: FOUR}, out)


def test_nothing_is_left_behind_where_writing_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(FrogError, match=r"No space left.*nothing was left behind"):
        write_torchao(folder, {UP: FOUR}, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_format_says_which_package_it_needs(folder: Path, tmp_path: Path) -> None:
    class Absent(CheckpointFormat):
        name, meaning, package = "absent", "", "no_such_package"

        def store(self, *args: Any) -> Any: ...
        def config(self, *args: Any) -> Any: ...

    with pytest.raises(MissingPackage, match=r"no-such-package.*frog\[compress\]"):
        write_checkpoint(folder, {UP: FOUR}, tmp_path / "out", format=Absent())
    assert set(FORMATS) == set(WRITERS) and all(x.meaning for x in FORMATS.values())
