"""Fine-tuning compared: tasks x methods x budgets x learning rates x seeds, as curves."""
