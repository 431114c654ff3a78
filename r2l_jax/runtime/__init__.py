"""The ground that every program stands on, whatever it computes."""
