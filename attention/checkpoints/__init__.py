"""Weight maps of foreign checkpoints: tables that rename, reshape and transpose tensors, and the contract of each config."""
