"""What the program asks of the operating system: files, locks, memory and cores, signals, names."""
