"""Rows that outlive a step, each kind with its rule of writing."""
