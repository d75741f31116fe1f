"""What runs the language model: transformers, or vLLM."""
