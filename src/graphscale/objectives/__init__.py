"""What is minimised: pure functions of (parameters, batch)."""
