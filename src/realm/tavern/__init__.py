"""The Tavern: the realm's web pages on port 8888, rendered on the server, live through one event stream."""
