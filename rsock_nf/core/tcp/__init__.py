"""The headers of TCP, IP and ICMP packets."""
