"""The making of the bundled nano model: composer, renderer, learner."""
