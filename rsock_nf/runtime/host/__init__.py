"""What a running instance holds of its host: device and link, rules, ports, sockets toward applications and targets."""
