"""Exchange: foreign checkpoint dialects as tables. A dialect renames, reshapes and transposes; it never computes."""
