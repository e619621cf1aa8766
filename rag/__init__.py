"""Documents -> chunks -> Chroma collection (through LlamaIndex) -> retrieve -> grounded prompt -> RagEngine."""
