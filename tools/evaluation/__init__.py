"""Evaluation of the proof itself: its false alarms, and whether formula and layers ever disagree."""
