"""Flows: states, timers, health, path MTU, and sessions, which own them."""
