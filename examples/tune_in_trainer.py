"""Three lines in your own Trainer: 3 % of a small BERT learns which texts praise.

pip install '.[tune]' && python examples/tune_in_trainer.py
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import frog

torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=16, initializer_range=0.1,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
model = BertForSequenceClassification(config)  # yours: .from_pretrained(...)

words = torch.randint(10, 100, (256, 12))
labels = (torch.rand(256) < 0.5).long()
words[:, 3] = labels + 5  # the word that tells
rows = [{"input_ids": x, "labels": y} for x, y in zip(words, labels, strict=True)]
folder = tempfile.mkdtemp()
args = TrainingArguments(
    folder, max_steps=60, per_device_train_batch_size=32, report_to="none", save_strategy="no",
    disable_tqdm=True, use_cpu=True, seed=0,
)  # fmt: skip

chosen = frog.select(model, frog.allocate(frog.analyze(model), 0.03))
tuner = frog.Tuner(model, chosen, also=["classifier"], guards="auto")
tuner.rate(full=1e-3)  # what full tuning would use; left out: a default by kind and size
optimizer = tuner.optimizer()  # lr="auto"

trainer = Trainer(
    model, args, train_dataset=rows, eval_dataset=rows, callbacks=[tuner.callback()],
    optimizers=(optimizer, None),
)  # fmt: skip
before = trainer.evaluate()["eval_loss"]
trainer.train()
after = trainer.evaluate()["eval_loss"]

print(f"loss {before:.3f} -> {after:.3f}, {tuner.delta().count:,} weights changed")
print(tuner.certificate())
tuner.keep()  # or tuner.revert()
model.save_pretrained(folder)  # loads in plain transformers
