"""Scores to sound: FluidSynth a stem at a time, levelled and mixed, kept on disk."""
