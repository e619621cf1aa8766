"""The command line of serve/; one file a command."""
