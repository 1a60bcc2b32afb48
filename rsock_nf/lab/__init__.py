"""The laboratory and the demonstration: hosts in network namespaces."""
