"""A delta as a SHiRA adapter is the tuned model, bit for bit, in plain peft."""

from pathlib import Path

import pytest
import torch

from frog.api import diff, export_delta
from frog.errors import UsageError

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")


def tiny(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


def tuned_copy(folder: Path, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A base, saved in ``folder``, and a copy with 1 to 4 % of some layers changed."""
    base, tuned = tiny(dtype), tiny(dtype)
    base.save_pretrained(folder)
    draw = torch.Generator().manual_seed(1)
    share = {"q_proj": 0.01, "gate_proj": 0.04, "down_proj": 0.02}
    for name, parameter in tuned.named_parameters():
        part = next((x for word, x in share.items() if word in name), 0.0)
        mask = torch.rand(parameter.shape, generator=draw) < part
        move = 0.01 * torch.randn(parameter.shape, generator=draw).to(dtype)
        parameter.data = torch.where(mask, parameter.data + move, parameter.data)
    return base, tuned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_peft_loads_the_tuned_model_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned = tuned_copy(tmp_path / "base", dtype)
    delta = diff(base, tuned)
    told = export_delta(delta, str(tmp_path / "base"), "shira", tmp_path / "adapter")
    assert "bit for bit" in told[-1], told
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        wanted = tuned(ids).logits
        model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.equal(model(ids).logits, wanted)
        merged = model.merge_and_unload()
    for name, value in tuned.state_dict().items():
        assert torch.equal(merged.state_dict()[name], value), name


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    base, tuned = tuned_copy(tmp_path / "base", torch.float32)
    with torch.no_grad():
        tuned.model.norm.weight[0] += 1  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"model\.norm\.weight changed too"):
        export_delta(diff(base, tuned), str(tmp_path / "base"), "shira", tmp_path / "adapter")
    other = tiny()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight += 1  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="too dense"):
        export_delta(diff(base, other), str(tmp_path / "base"), "shira", tmp_path / "adapter")
    with pytest.raises(UsageError, match="empty"):
        export_delta(diff(base, base), str(tmp_path / "base"), "shira", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_foreign_base_is_refused(tmp_path: Path) -> None:
    base, tuned = tuned_copy(tmp_path / "base", torch.float32)
    delta = diff(base, tuned)
    with pytest.raises(UsageError, match="applied already"):
        export_delta(delta, tuned, "shira", tmp_path / "adapter")


def test_merged_and_card(tmp_path: Path) -> None:
    base, tuned = tuned_copy(tmp_path / "base", torch.float32)
    delta = diff(base, tuned)
    export_delta(delta, str(tmp_path / "base"), "merged", tmp_path / "merged")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in tuned.state_dict().items())
    export_delta(delta, base, "card", tmp_path / "card.md")
    assert f"{delta.count:,}" in (tmp_path / "card.md").read_text()
