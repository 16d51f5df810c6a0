"""Where durable channels keep their items."""
