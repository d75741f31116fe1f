"""Rendered pieces to weights: latents, examples of each task, the network and its optimisation."""
