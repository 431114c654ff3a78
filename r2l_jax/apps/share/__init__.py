"""Models and data sets in the forms in which others expect them: the hub, cards, and Croissant metadata."""
