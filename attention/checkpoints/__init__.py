"""Exchange: foreign checkpoint weight maps as tables. A weight_map renames, reshapes and transposes; it never computes."""
