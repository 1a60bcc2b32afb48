"""The tunnel under faults: a path that can be spoilt, a load that knows what it lost, and a table of what happened."""
