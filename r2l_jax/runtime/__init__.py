"""Services that every program uses: start-up, stopping, hosts, devices, files, errors, stored results."""
