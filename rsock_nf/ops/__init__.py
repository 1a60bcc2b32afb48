"""What an operator touches: instances, control socket, status."""
