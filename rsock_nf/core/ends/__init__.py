"""The endpoint of a client or a server: what drives its flows and conversations."""
