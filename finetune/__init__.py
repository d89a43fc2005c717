"""Training with TRL's trainers: fine-tuning, preferences and distillation, with checkpoints that can be resumed."""
