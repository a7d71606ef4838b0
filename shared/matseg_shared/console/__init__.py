"""What all commands share on the terminal: help, errors, exit codes, progress, completion."""
