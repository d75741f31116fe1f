"""The nouns of the program."""
