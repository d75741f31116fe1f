"""Captions in English and Japanese: the words, what they claim, and how they are put."""
