"""Machine translation: small models trained here, and a large one that was trained elsewhere, each in both frameworks."""
