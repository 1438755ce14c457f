"""View models: what a page prints, computed here and tested without a browser."""
