"""What keeps workers alive, here or on a cluster."""
