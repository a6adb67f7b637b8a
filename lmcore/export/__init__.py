"""What becomes of a trained model: read it from a checkpoint, write it as a Hugging Face Llama, sample from it."""
