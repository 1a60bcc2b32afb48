"""An instance as a service of systemd: the unit, and its installation."""
