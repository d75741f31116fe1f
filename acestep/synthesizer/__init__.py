"""Text encoder, condition encoder and DiT: a song's plan becomes latents."""
