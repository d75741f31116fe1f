"""The planner: the 5 Hz language model decides what a song is to be, and sketches it in audio codes."""
