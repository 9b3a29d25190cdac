"""Modules of the house, and adaptors for everybody else's."""
