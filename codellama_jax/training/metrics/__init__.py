"""What a stage records while it trains: metrics.jsonl, evaluations.jsonl, TensorBoard events, progress."""
