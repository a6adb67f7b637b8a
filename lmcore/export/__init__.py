"""Using trained models: load one from a checkpoint, export it as a Hugging Face Llama, sample text from it."""
