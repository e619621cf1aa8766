"""Engines: everything that can answer a chat. `core.engines.base.Engine` is the one interface."""
