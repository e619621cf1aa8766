"""Training rows -> LoRA adapter (PEFT) or head on a frozen encoder -> adapter registry entry."""
