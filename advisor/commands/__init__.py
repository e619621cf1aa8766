"""The command line of advisor/; one file a command."""
