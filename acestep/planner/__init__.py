"""The planner: the 5 Hz language model decides on metadata, lyrics and audio codes."""
