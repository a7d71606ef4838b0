"""The commands of the trainer; torch is imported only where one works."""
