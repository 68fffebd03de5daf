"""The hub's web page and its JSON API."""
