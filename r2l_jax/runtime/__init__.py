"""Services shared by all programs: start-up, stopping, hosts, devices, files, errors, and stored results."""
