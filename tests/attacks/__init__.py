"""Attacks on a running tunnel: who can do them, how much they send, and a table of what they did."""
