"""Training: supervised fine-tuning on TRL's trainer, with complete checkpoints, resume and DeepSpeed."""
