"""The figures of `matseg-evaluate`: tallies per image, what follows from them, and why an image is bad."""
