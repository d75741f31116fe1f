"""Other ways to ask for songs and to be answered: thin translations to the fields of `/release_task`."""
