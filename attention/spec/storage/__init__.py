"""File storage: bounded reads, atomic writes, and the safetensors format."""
