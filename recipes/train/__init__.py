"""Train: fine-tuning, with its settings, loss, device and checkpoints."""
