"""Results: reports and their provenance, as data."""
