"""What answers a query: search engines behind one protocol, and what guards the agent from them."""
