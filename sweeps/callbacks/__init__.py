"""What is told of every report row: metrics.jsonl, the trials' folders, the terminal, wandb."""
