"""What every program stands on: start-up, stopping, hosts, devices, files, errors, results."""
