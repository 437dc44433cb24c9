"""Evaluation of the proof itself: its false alarms, and whether formula and layers ever disagree.

python -m tools.evaluation false-alarms --draws 2000
python -m tools.evaluation random-options --draws 2000
"""
