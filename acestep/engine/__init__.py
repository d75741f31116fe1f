"""Where planner, synthesizer, codec and audio meet: a request becomes songs on disk."""
