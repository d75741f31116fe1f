"""Where every model of the program is placed, decided before anything is loaded."""
