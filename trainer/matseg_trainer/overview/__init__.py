"""The state of a workspace, read from disk without torch, and the command to type next."""
