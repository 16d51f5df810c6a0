"""Every example under every server it can run on: a real process, real clients, and a page that says what was seen."""
