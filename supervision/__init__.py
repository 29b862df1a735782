"""Keeps a party running and what it holds safe: supervisor, monitoring, copies and archives."""
