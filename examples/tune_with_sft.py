"""TRL's SFTTrainer on a small Llama; the change leaves as an adapter that plain peft loads.

pip install '.[tune]' trl && python examples/tune_with_sft.py
"""

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import frog

torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
pieces = Tokenizer(
    models.BPE(vocab={x: i for i, x in enumerate(["<pad>", "</s>", *letters])}, merges=[])
)
pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>")
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
)  # fmt: skip
model = LlamaForCausalLM(config)
model.save_pretrained(folder / "base")
rows = Dataset.from_list([{"text": "a frog can jump far and swim well"}] * 64)

chosen = frog.select(model, frog.allocate(frog.analyze(model), 0.05))
tuner = frog.Tuner(model, chosen)
trainer = SFTTrainer(
    model,
    SFTConfig(
        str(folder / "run"), max_steps=20, per_device_train_batch_size=8, max_length=48,
        report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, use_cpu=True,
        bf16=False,
    ),
    train_dataset=rows,
    processing_class=tokenizer,
    callbacks=[tuner.callback()],
    optimizers=(tuner.optimizer(), None),
)  # fmt: skip
trainer.train()
losses = [x["loss"] for x in trainer.state.log_history if "loss" in x]
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

delta = tuner.delta()
delta.save(folder / "delta.safetensors")
tuner.keep()
tokens = torch.tensor([tokenizer("a frog")["input_ids"]])
wanted = model.eval()(tokens).logits

frog.export_delta(delta, str(folder / "base"), "shira", folder / "shira")
adapted = PeftModel.from_pretrained(
    LlamaForCausalLM.from_pretrained(folder / "base"), folder / "shira"
)
print("peft gives the same:", torch.equal(adapted.eval()(tokens).logits, wanted))
