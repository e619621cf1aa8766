"""Commands that need no room of their own; one file a command."""
