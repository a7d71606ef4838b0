"""Services of the operating system: files, locks, memory and cores, signals, names."""
