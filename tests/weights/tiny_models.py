"""Tiny random transformers models, one per architecture and layout, built offline from configs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from transformers.utils import logging

TEXT: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=96,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
VISION: dict[str, Any] = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
)


def build(name: str) -> torch.nn.Module:
    """The tiny model of this name, with random weights: no two parameters are equal."""
    with quiet():
        torch.manual_seed(0)
        model = MODELS[name]()
    with torch.no_grad():  # zeros and ones would hide a wrong order
        for parameter in model.parameters():
            parameter.normal_()
    return model


def save(model: Any, folder: Any) -> None:
    """Save without progress bars and without chatter."""
    with quiet():
        model.save_pretrained(folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers logs to stderr and draws bars; both are put back afterwards."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _model(model: str, config: str, **settings: Any) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        made = getattr(transformers, config)(**settings)
        return getattr(transformers, model)(made)

    return make


def _nested(model: str, config: str, parts: dict[str, tuple[str, dict]], **settings: Any):
    def make() -> torch.nn.Module:
        inner = {key: getattr(transformers, cls)(**kw) for key, (cls, kw) in parts.items()}
        made = getattr(transformers, config)(**inner, **settings)
        return getattr(transformers, model)(made)

    return make


def _text(family: str, **settings: Any) -> Callable[[], torch.nn.Module]:
    return _model(f"{family}ForCausalLM", f"{family}Config", **{**TEXT, **settings})


def _without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in TEXT.items() if key not in names}


_FALCON = _without("head_dim", "intermediate_size", "num_key_value_heads")
_PLAIN_HEADS = _without("head_dim", "num_key_value_heads")

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "llama": _text("Llama", tie_word_embeddings=False),
    "llama_tied": _text("Llama", tie_word_embeddings=True),
    "qwen2": _text("Qwen2"),
    "qwen3": _text("Qwen3"),
    "gemma3": _model("Gemma3ForCausalLM", "Gemma3TextConfig", **TEXT),
    "phi3": _text("Phi3"),
    "mixtral": _text("Mixtral", num_local_experts=3),
    "qwen2_moe": _text(
        "Qwen2Moe",
        num_experts=3,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=28,
        num_experts_per_tok=2,
    ),
    "qwen3_moe": _text("Qwen3Moe", num_experts=3, moe_intermediate_size=20, num_experts_per_tok=2),
    "deepseek_v3": _model(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        **_without("head_dim", "num_key_value_heads"),
        num_key_value_heads=4,
        moe_intermediate_size=20,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        q_lora_rank=12,
        kv_lora_rank=10,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "dbrx": lambda: _dbrx(),
    "gpt_oss": _text("GptOss", num_local_experts=3, num_experts_per_tok=2),
    "llama4": _model(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        **TEXT,
        num_local_experts=3,
        intermediate_size_mlp=44,
        interleave_moe_layer_step=2,
    ),
    "gpt2": _model(
        "GPT2LMHeadModel",
        "GPT2Config",
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=96,
        n_positions=48,
    ),
    "codegen": _model(
        "CodeGenForCausalLM",
        "CodeGenConfig",
        n_embd=32,
        n_layer=2,
        n_head=4,
        rotary_dim=4,
        n_positions=48,
        vocab_size=96,
    ),
    "gpt_neox": _model("GPTNeoXForCausalLM", "GPTNeoXConfig", **_PLAIN_HEADS),
    "gpt_bigcode": _model(
        "GPTBigCodeForCausalLM",
        "GPTBigCodeConfig",
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=96,
        n_positions=48,
    ),
    "falcon_7b": _model("FalconForCausalLM", "FalconConfig", **_FALCON, multi_query=True),
    "falcon_40b": _model(
        "FalconForCausalLM",
        "FalconConfig",
        **_FALCON,
        new_decoder_architecture=True,
        num_kv_heads=2,
    ),
    "falcon_rw": _model(
        "FalconForCausalLM", "FalconConfig", **_FALCON, multi_query=False, alibi=True
    ),
    "bloom": _model(
        "BloomForCausalLM", "BloomConfig", hidden_size=32, n_layer=2, n_head=4, vocab_size=96
    ),
    "mpt": _model("MptForCausalLM", "MptConfig", d_model=32, n_layers=2, n_heads=4, vocab_size=96),
    "bert": _model("BertForMaskedLM", "BertConfig", **_PLAIN_HEADS),
    "bert_encoder": _model("BertModel", "BertConfig", **_PLAIN_HEADS),
    "roberta_classifier": _model(
        "RobertaForSequenceClassification", "RobertaConfig", **_PLAIN_HEADS
    ),
    "distilbert": _model(
        "DistilBertModel", "DistilBertConfig", dim=32, n_layers=2, n_heads=4, hidden_dim=48
    ),
    "modernbert": _model(
        "ModernBertForMaskedLM", "ModernBertConfig", **_without("head_dim", "num_key_value_heads")
    ),
    "vit": _model("ViTForImageClassification", "ViTConfig", **VISION),
    "convnext": _model(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 2, 1],
    ),
    "clip": _nested(
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": ("CLIPTextConfig", _without("head_dim", "num_key_value_heads")),
            "vision_config": ("CLIPVisionConfig", VISION),
        },
        projection_dim=16,
    ),
    "llava": _nested(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {"text_config": ("LlamaConfig", TEXT), "vision_config": ("CLIPVisionConfig", VISION)},
        image_token_index=95,
    ),
    "qwen2_vl": lambda: _qwen2_vl(),
    "t5": _model(
        "T5ForConditionalGeneration",
        "T5Config",
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        vocab_size=96,
        decoder_start_token_id=0,
    ),
    "whisper": _model(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=96,
        num_mel_bins=10,
        max_source_positions=20,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    ),
    "mamba": _model(
        "MambaForCausalLM", "MambaConfig", hidden_size=32, num_hidden_layers=2, vocab_size=96
    ),
    "mamba2": _model(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        hidden_size=32,
        num_hidden_layers=2,
        vocab_size=96,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        state_size=16,
    ),
    "qwen3_5": _model(
        "Qwen3_5ForCausalLM",
        "Qwen3_5TextConfig",
        **TEXT,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=6,
    ),
    "qwen3_next": _text(
        "Qwen3Next",
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        num_experts=3,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=28,
        num_experts_per_tok=2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=6,
    ),
}


def _dbrx() -> torch.nn.Module:
    config = transformers.DbrxConfig(
        d_model=32,
        n_heads=4,
        n_layers=2,
        vocab_size=96,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        ffn_config={"ffn_hidden_size": 20, "hidden_size": 32, "moe_num_experts": 3, "moe_top_k": 2},
    )
    return transformers.DbrxForCausalLM(config)


def _qwen2_vl() -> torch.nn.Module:
    config = transformers.Qwen2VLConfig(
        text_config={
            **_without("head_dim"),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "embed_dim": 24,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
    )
    return transformers.Qwen2VLForConditionalGeneration(config)
