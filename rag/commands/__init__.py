"""The command line of rag/; one file a command."""
