"""Whole pieces of music: data of styles and instruments, and the composer that writes from them."""
