"""Orders of seeing the data."""
