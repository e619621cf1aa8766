"""The command line of tuning/; one file a command."""
