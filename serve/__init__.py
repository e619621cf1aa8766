"""One OpenAI-compatible FastAPI app over every use case."""
