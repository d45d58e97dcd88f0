"""A server that speaks OpenAI's API: HTTP in, requests to one engine, events out."""
