"""The two ends: what drives flows and conversations."""
