"""Sockets toward applications, targets and UDP carriers; ports that are held."""
