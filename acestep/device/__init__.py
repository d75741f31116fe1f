"""What the machine's devices are, and how they say that memory ran out."""
