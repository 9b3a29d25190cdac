"""Networks cut across their width."""
