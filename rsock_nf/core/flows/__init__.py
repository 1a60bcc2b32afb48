"""Flows: states, timers, health, path MTU, sessions."""
