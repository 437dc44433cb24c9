"""Rendering: reports, traces and training runs as text, as plots and as one HTML page."""
