"""What the hub does with the credentials, addresses and roles of its clients."""
