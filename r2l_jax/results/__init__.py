"""Results: what they hold, how they are written, found again, and drawn."""
