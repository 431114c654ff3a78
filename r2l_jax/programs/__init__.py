"""The programs: flags, one call, and the exit status. Each is a file of scripts/ and a command r2l-<name>."""
