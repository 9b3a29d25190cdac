"""Readers of real formats, and generators."""
