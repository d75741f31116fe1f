"""Run the language model: PyTorch, or vLLM."""
