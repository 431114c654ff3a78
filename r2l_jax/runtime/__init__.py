"""What every program runs on, whatever it computes."""
