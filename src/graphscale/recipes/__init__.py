"""One home per system: a frozen configuration and ``build(config) -> Run``."""
