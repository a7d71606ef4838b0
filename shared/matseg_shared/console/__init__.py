"""Help, options, errors, exit codes, progress and completion that all commands share."""
