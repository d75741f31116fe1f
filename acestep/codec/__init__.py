"""Latents to audio and back; each codec reads its sizes from its own checkpoint."""
