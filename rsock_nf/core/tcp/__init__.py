"""TCP and ICMP as they stand in packets."""
