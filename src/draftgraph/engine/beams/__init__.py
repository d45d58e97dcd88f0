"""Beams: several texts of one request, of which every layer keeps the best, or draws some."""
