"""Files: read within limits that are checked first, written whole or not at all; the safetensors format."""
