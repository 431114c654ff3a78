"""Models, data sets and drifts in the forms in which others expect them: the hub, cards, Croissant and MAITE."""
