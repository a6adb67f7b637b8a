"""Using trained models: load one from a checkpoint, export it as a Hugging Face Llama or Qwen3, sample text from it."""
