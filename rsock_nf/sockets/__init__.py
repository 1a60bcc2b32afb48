"""Sockets toward applications and targets, UDP sockets that flows travel in, and ports that are held."""
