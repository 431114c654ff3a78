"""What programs and people exchange: flags, commands, progress, start and stop."""
