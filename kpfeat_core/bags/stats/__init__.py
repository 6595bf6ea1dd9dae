"""Numbers about a recording, and a page that shows them."""
